// Sessions of transformers: a ladder of `decode_C` signatures and optional `prefill_T` ones.
#ifndef EDGELM_TRANSFORMER_SESSION_H_
#define EDGELM_TRANSFORMER_SESSION_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "edgelm_lm.h"
#include "transformer_stage.h"

namespace edgelm {

// Decodes with the shortest rung that has a free slot; prefills while a call is worth it, token by token after.
class TransformerSession : public Session {
 public:
  static bool runs(const Model& model);
  explicit TransformerSession(const std::shared_ptr<Model>& model);

  Snapshot snapshot() const override;

 private:
  using Names = std::map<size_t, std::string>;  // by C, or by T

  struct Chunk {
    size_t time, slots;
    std::string name;
  };

  TransformerSession(const std::shared_ptr<Model>& model, Names ladder);

  void take(int token) override;
  void take_all(const int* tokens, size_t count) override;
  void forget() override;
  void load(const Snapshot& snapshot) override;

  void set_up(const std::vector<std::string>& signatures);
  void set_up_prefill(size_t position);
  void find_caches();
  Stage* chunk_for(size_t waiting);
  Stage& rung(size_t positions);
  Stage& at(const std::string& name);
  void move(Stage& stage);

  std::shared_ptr<Model> model_;
  Names ladder_;
  std::vector<Chunk> chunks_;  // largest first
  std::vector<CacheLayout> layouts_;
  Signature::Shared caches_;
  std::map<std::string, std::unique_ptr<Stage>> stages_;
  Stage* stage_ = nullptr;  // the one whose layout the caches have
};

}  // namespace edgelm

#endif  // EDGELM_TRANSFORMER_SESSION_H_
