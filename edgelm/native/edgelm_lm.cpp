#include "edgelm_lm.h"

#include <algorithm>

#include "recurrent_session.h"
#include "transformer_session.h"

namespace edgelm {
namespace {

const std::string kNoSignature;

}  // namespace

int Logits::best() const { return size_ == 0 ? -1 : static_cast<int>(std::max_element(begin(), end()) - begin()); }

Session::Session(int vocab_size, int max_positions)
    : vocab_size_(vocab_size), max_positions_(max_positions), signature_name_(&kNoSignature) {}

Logits Session::step(int token) {
  admit(&token, 1);
  take(token);
  return logits_;
}

Logits Session::prefill(const std::vector<int>& tokens) {
  admit(tokens.data(), tokens.size());
  take_all(tokens.data(), tokens.size());
  return logits_;
}

void Session::reset() {
  forget();
  position_ = 0;
  logits_ = {};
}

void Session::restore(const Snapshot& snapshot) {
  load(snapshot);
  position_ = snapshot.position;
  logits_ = {};
}

void Session::ran(const Signature& signature, const float* scores, int position) {
  signature_name_ = &signature.name();
  logits_ = {scores, static_cast<size_t>(vocab_size_)};
  position_ = position;
}

int Session::vocab_of(const Model& model, const std::string& signature) {
  const TensorInfo& logits = model.output(signature, "logits", kLiteRtElementTypeFloat32);
  return static_cast<int>(logits.bytes() / sizeof(float));
}

void Session::admit(const int* tokens, size_t count) const {
  if (count == 0) throw Error("no tokens were given");
  const auto stranger = std::find_if(tokens, tokens + count, [this](int token) { return token < 0 || token >= vocab_size_; });
  if (stranger != tokens + count) {
    throw Error("token id " + std::to_string(*stranger) + " is outside of the vocabulary: 0 to " + std::to_string(vocab_size_ - 1));
  }
  if (max_positions_ != 0 && count > static_cast<size_t>(max_positions_ - position_)) {
    throw Error("the context is full: it holds " + std::to_string(max_positions_) + " tokens, " + std::to_string(position_) +
                " are taken, " + std::to_string(count) + " more were given");
  }
}

std::unique_ptr<Session> open_session(const std::string& path, const Options& options) {
  const auto model = std::make_shared<Model>(path, options);
  if (RecurrentSession::runs(*model)) return std::make_unique<RecurrentSession>(model);
  if (TransformerSession::runs(*model)) return std::make_unique<TransformerSession>(model);
  throw Error(path + " has no signature that edgelm runs: step, or decode_C with prefill_T");
}

}  // namespace edgelm
