#include "transformer_session.h"

#include <algorithm>

namespace edgelm {
namespace {

// A prefill call is used when at least this share of it is tokens: a call of 64 took as long as 4 to 13 steps.
constexpr double kWorthPrefill = 0.25;

// Signatures `prefix_N`, by N.
std::map<size_t, std::string> names_by_size(const Model& model, const std::string& prefix) {
  std::map<size_t, std::string> found;
  for (const std::string& name : model.signatures()) {
    const std::string digits = name.rfind(prefix, 0) == 0 ? name.substr(prefix.size()) : "";
    const bool number = !digits.empty() && digits.size() < 9 && digits.find_first_not_of("0123456789") == std::string::npos;
    if (number) found[std::stoul(digits)] = name;
  }
  return found;
}

// How many numbers an input holds; an Error unless it is `wanted`, where that is not 0.
size_t checked_size(const Model& model, const std::string& signature, const std::string& name, LiteRtElementType type, size_t wanted = 0) {
  const size_t size = model.input(signature, name, type).bytes() / sizeof(float);
  if (wanted != 0 && size != wanted) throw Error(name + " of signature " + signature + " holds " + std::to_string(size) + " numbers");
  return size;
}

}  // namespace

bool TransformerSession::runs(const Model& model) { return !names_by_size(model, "decode_").empty(); }

TransformerSession::TransformerSession(const std::shared_ptr<Model>& model) : TransformerSession(model, names_by_size(*model, "decode_")) {}

TransformerSession::TransformerSession(const std::shared_ptr<Model>& model, Names ladder)
    : Session(vocab_of(*model, ladder.begin()->second), static_cast<int>(ladder.rbegin()->first)),
      model_(model),
      ladder_(std::move(ladder)) {
  for (const auto& [slots, name] : ladder_) checked_size(*model, name, "mask", kLiteRtElementTypeFloat32, slots);
  for (const auto& [time, name] : names_by_size(*model, "prefill_")) {
    checked_size(*model, name, "tokens", kLiteRtElementTypeInt32, time);
    chunks_.insert(chunks_.begin(), {time, checked_size(*model, name, "mask", kLiteRtElementTypeFloat32), name});
  }
  for (const std::string& name : model->signatures()) {
    if (vocab_of(*model, name) != vocab_size()) throw Error("the signatures have vocabularies of several sizes");
  }
  find_caches();
  stage_ = &rung(1);
  stage_->fill_mask(0);
  std::vector<std::string> first = {stage_->signature().name()};
  if (!chunks_.empty()) first.push_back(chunks_.front().name);
  set_up(first);
}

// What runs next. A rung comes when the text has outgrown the one before, so that few signatures are set up at any time; where they do
// not take turns, all are set up with the first.
void TransformerSession::set_up(const std::vector<std::string>& signatures) {
  model_->prepare(model_->takes_turns() ? signatures : model_->signatures());
}

// All prefills, since a prompt may need several, and the rung that goes on behind `position` tokens.
void TransformerSession::set_up_prefill(size_t position) {
  std::vector<std::string> signatures = {ladder_.lower_bound(std::min(position + 1, ladder_.rbegin()->first))->second};
  for (const Chunk& chunk : chunks_) signatures.push_back(chunk.name);
  set_up(signatures);
}

// The caches are what the shortest rung returns besides the logits; their memory is large enough for every signature.
void TransformerSession::find_caches() {
  const std::string& first = ladder_.begin()->second;
  for (const TensorInfo& rows : model_->outputs(first)) {
    if (rows.name == "logits") continue;
    const std::vector<int> row = rows.shape(), cache = model_->input(first, rows.name, kLiteRtElementTypeFloat32).shape();
    if (row.size() != 4 || cache.size() != 4) throw Error("cache " + rows.name + " does not have 4 axes");
    const bool transposed = cache[2] == row[2];
    const auto heads = static_cast<size_t>(row[1]), dim = static_cast<size_t>(row[transposed ? 2 : 3]);
    layouts_.push_back(transposed ? CacheLayout{rows.name, heads * dim, 1} : CacheLayout{rows.name, heads, dim});
    size_t bytes = 0;
    for (const std::string& name : model_->signatures()) {
      bytes = std::max(bytes, model_->input(name, rows.name, kLiteRtElementTypeFloat32).bytes());
    }
    caches_.emplace(rows.name, std::make_shared<Memory>(bytes));
  }
}

void TransformerSession::take(int token) {
  const auto taken = static_cast<size_t>(position());
  if (taken >= stage_->slots() || !stage_->decodes() || taken == 0) move(rung(taken + 1));
  if (!model_->is_prepared(stage_->signature().name())) set_up({stage_->signature().name()});
  stage_->run(&token, 1, taken);
  ran(stage_->signature(), stage_->scores(), position() + 1);
}

void TransformerSession::take_all(const int* tokens, size_t count) {
  for (size_t taken = 0; taken < count;) {
    Stage* chunk = chunk_for(count - taken);
    if (!chunk) {
      take(tokens[taken++]);
      continue;
    }
    const size_t part = std::min(chunk->time(), count - taken);
    if (!model_->is_prepared(chunk->signature().name())) set_up_prefill(static_cast<size_t>(position()) + count - taken);
    move(*chunk);
    chunk->run(tokens + taken, part, static_cast<size_t>(position()));
    ran(chunk->signature(), chunk->scores(), position() + static_cast<int>(part));
    taken += part;
  }
}

void TransformerSession::forget() { stage_->fill_mask(0); }

Snapshot TransformerSession::snapshot() const { return {position(), stage_->saved(static_cast<size_t>(position()))}; }

void TransformerSession::load(const Snapshot& snapshot) {
  const auto count = static_cast<size_t>(snapshot.position);
  if (count > stage_->slots()) stage_ = &rung(count);
  stage_->load(snapshot.states, count);
  stage_->fill_mask(count);
}

// The largest prefill that fits behind `position` and that the waiting tokens fill well enough; null for a step.
Stage* TransformerSession::chunk_for(size_t waiting) {
  const auto found = std::find_if(chunks_.begin(), chunks_.end(), [&](const Chunk& chunk) {
    const double least = std::max(2.0, kWorthPrefill * static_cast<double>(chunk.time));
    return static_cast<double>(waiting) >= least && static_cast<size_t>(position()) + chunk.time <= chunk.slots;
  });
  return found == chunks_.end() ? nullptr : &at(found->name);
}

Stage& TransformerSession::rung(size_t positions) { return at(ladder_.lower_bound(positions)->second); }

// The stage of a signature, made when it is first needed.
Stage& TransformerSession::at(const std::string& name) {
  std::unique_ptr<Stage>& stage = stages_[name];
  if (!stage) stage = std::make_unique<Stage>(model_, name, caches_, layouts_);
  return *stage;
}

void TransformerSession::move(Stage& stage) {
  if (&stage == stage_) return;
  const auto taken = static_cast<size_t>(position());
  stage.take_over(*stage_, taken);
  stage.fill_mask(taken);
  stage_ = &stage;
}

}  // namespace edgelm
