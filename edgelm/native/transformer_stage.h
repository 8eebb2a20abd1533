// One signature of a transformer over caches that all signatures share.
#ifndef EDGELM_TRANSFORMER_STAGE_H_
#define EDGELM_TRANSFORMER_STAGE_H_

#include <memory>
#include <string>
#include <vector>

#include "litert_model.h"

namespace edgelm {

// A cache (1, heads, slots, dim) or (1, heads, dim, slots), seen as `outer` blocks of slots x `inner` numbers.
struct CacheLayout {
  std::string name;
  size_t outer, inner;
};

// `decode_C(token, position, mask, caches) -> logits, rows`, or `prefill_T(tokens, position, last, mask, caches) -> logits, rows`.
//
// A call returns only the new rows, which are copied to their slots. Every stage's caches lie in the same memory, whichever their
// number of slots, so that a ladder costs no more than its longest rung; moving to another stage moves the blocks in place.
class Stage {
 public:
  // `layouts` must outlive the stage. Throws Error when a tensor is missing or does not fit the others.
  Stage(std::shared_ptr<Model> model, const std::string& name, const Signature::Shared& caches, const std::vector<CacheLayout>& layouts);

  bool decodes() const { return last_ == nullptr; }
  size_t slots() const { return slots_; }
  size_t time() const { return time_; }
  const Signature& signature() const { return signature_; }
  const float* scores() const { return scores_; }

  // Runs `count` tokens behind `position` others and keeps their rows.
  void run(const int* tokens, size_t count, size_t position);

  // Says that the first `count` slots are filled and no others.
  void fill_mask(size_t count);

  // Lays out for this stage the first `count` slots of caches that were laid out for `other`.
  void take_over(const Stage& other, size_t count);

  // The first `count` slots of each cache, in one layout for every stage.
  std::vector<std::vector<float>> saved(size_t count) const;
  void load(const std::vector<std::vector<float>>& states, size_t count);

 private:
  struct Cache {
    const CacheLayout* layout;
    float* slots;
    const float* rows;
  };

  Signature signature_;
  float* mask_;
  int32_t *position_, *tokens_, *last_;
  const float* scores_;
  size_t slots_, time_;
  std::vector<Cache> caches_;
};

}  // namespace edgelm

#endif  // EDGELM_TRANSFORMER_STAGE_H_
