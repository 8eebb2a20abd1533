#include "transformer_stage.h"

#include <algorithm>
#include <cstring>

namespace edgelm {
namespace {

constexpr float kMasked = -1e9f;  // added to the score of an empty slot: its weight is exactly 0 after the softmax

size_t count_of(const std::vector<TensorInfo>& infos, const std::string& name) {
  const auto found = std::find_if(infos.begin(), infos.end(), [&](const TensorInfo& info) { return info.name == name; });
  return found->bytes() / sizeof(float);
}

// Copies `count` slots between places that hold `source_slots` and `target_slots` of them.
void copy_slots(const CacheLayout& layout, const float* source, size_t source_slots, float* target, size_t target_slots, size_t count) {
  const size_t inner = layout.inner;
  if (count * inner == 1) {  // a row of a transposed cache: calling memcpy for each number would take longer than copying it
    for (size_t i = 0; i < layout.outer; ++i) target[i * target_slots] = source[i * source_slots];
    return;
  }
  for (size_t i = 0; i < layout.outer; ++i) {
    std::memcpy(target + i * target_slots * inner, source + i * source_slots * inner, count * inner * sizeof(float));
  }
}

}  // namespace

Stage::Stage(std::shared_ptr<Model> model, const std::string& name, const Signature::Shared& caches,
             const std::vector<CacheLayout>& layouts)
    : signature_(std::move(model), name, caches),
      mask_(signature_.float_input("mask")),
      position_(signature_.int_input("position")),
      tokens_(signature_.int_input(signature_.has_input("token") ? "token" : "tokens")),
      last_(signature_.has_input("token") ? nullptr : signature_.int_input("last")),
      scores_(signature_.float_output("logits")),
      slots_(count_of(signature_.inputs(), "mask")),
      time_(count_of(signature_.inputs(), last_ ? "tokens" : "token")) {
  for (const CacheLayout& layout : layouts) {
    caches_.push_back({&layout, signature_.float_input(layout.name), signature_.float_output(layout.name)});
    const size_t width = layout.outer * layout.inner;
    if (count_of(signature_.inputs(), layout.name) != width * slots_ || count_of(signature_.outputs(), layout.name) != width * time_) {
      throw Error("cache " + layout.name + " of signature " + name + " does not fit its mask or its new rows");
    }
  }
}

void Stage::run(const int* tokens, size_t count, size_t position) {
  std::copy_n(tokens, count, tokens_);
  std::fill(tokens_ + count, tokens_ + time_, 0);
  *position_ = static_cast<int32_t>(position);
  if (last_) *last_ = static_cast<int32_t>(count) - 1;
  signature_.run();
  for (const Cache& cache : caches_) {
    copy_slots(*cache.layout, cache.rows, time_, cache.slots + position * cache.layout->inner, slots_, count);
  }
  std::fill_n(mask_ + position, count, 0.0f);
}

void Stage::fill_mask(size_t count) {
  std::fill_n(mask_, count, 0.0f);
  std::fill(mask_ + count, mask_ + slots_, kMasked);
}

void Stage::take_over(const Stage& other, size_t count) {
  const bool apart = slots_ > other.slots_;  // blocks that move apart are moved from the last one, so that none is overwritten
  for (const Cache& cache : caches_) {
    const size_t outer = cache.layout->outer, inner = cache.layout->inner;
    for (size_t i = 0; i < outer; ++i) {
      const size_t block = apart ? outer - 1 - i : i;
      std::memmove(cache.slots + block * slots_ * inner, cache.slots + block * other.slots_ * inner, count * inner * sizeof(float));
    }
  }
}

std::vector<std::vector<float>> Stage::saved(size_t count) const {
  std::vector<std::vector<float>> states;
  for (const Cache& cache : caches_) {
    states.emplace_back(cache.layout->outer * cache.layout->inner * count);
    copy_slots(*cache.layout, cache.slots, slots_, states.back().data(), count, count);
  }
  return states;
}

void Stage::load(const std::vector<std::vector<float>>& states, size_t count) {
  for (size_t i = 0; i < caches_.size(); ++i) copy_slots(*caches_[i].layout, states.at(i).data(), count, caches_[i].slots, slots_, count);
}

}  // namespace edgelm
