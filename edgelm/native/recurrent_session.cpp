#include "recurrent_session.h"

#include <algorithm>

namespace edgelm {
namespace {

const char* const kStep = "step";

}  // namespace

bool RecurrentSession::runs(const Model& model) { return model.has(kStep); }

RecurrentSession::RecurrentSession(const std::shared_ptr<Model>& model)
    : Session(vocab_of(*model, kStep), 0),
      step_(model, kStep),
      token_(step_.int_input("token")),
      scores_(step_.float_output("logits")) {
  for (const TensorInfo& info : step_.inputs()) {
    if (info.name == "token") continue;
    if (model->output(kStep, info.name, kLiteRtElementTypeFloat32).bytes() != info.bytes()) {
      throw Error("state " + info.name + " changes its size in a step");
    }
    states_.push_back({step_.float_input(info.name), step_.float_output(info.name), info.bytes() / sizeof(float)});
  }
  model->prepare({kStep});
}

void RecurrentSession::take(int token) {
  *token_ = token;
  step_.run();
  for (const State& state : states_) std::copy_n(state.next, state.size, state.now);
  ran(step_, scores_, position() + 1);
}

void RecurrentSession::take_all(const int* tokens, size_t count) { std::for_each(tokens, tokens + count, [this](int id) { take(id); }); }

void RecurrentSession::forget() {
  for (const State& state : states_) std::fill_n(state.now, state.size, 0.0f);
}

Snapshot RecurrentSession::snapshot() const {
  Snapshot saved{position(), {}};
  for (const State& state : states_) saved.states.emplace_back(state.now, state.now + state.size);
  return saved;
}

void RecurrentSession::load(const Snapshot& snapshot) {
  for (size_t i = 0; i < states_.size(); ++i) std::copy_n(snapshot.states.at(i).data(), states_[i].size, states_[i].now);
}

}  // namespace edgelm
