// Sessions of models with one signature `step(token, states) -> logits, states`.
#ifndef EDGELM_RECURRENT_SESSION_H_
#define EDGELM_RECURRENT_SESSION_H_

#include <memory>
#include <string>
#include <vector>

#include "edgelm_lm.h"

namespace edgelm {

// The states are inputs of `step`; after each run they are overwritten with its outputs, a few kilobytes.
class RecurrentSession : public Session {
 public:
  static bool runs(const Model& model);
  explicit RecurrentSession(const std::shared_ptr<Model>& model);

  Snapshot snapshot() const override;

 private:
  struct State {
    float* now;
    const float* next;
    size_t size;
  };

  void take(int token) override;
  void take_all(const int* tokens, size_t count) override;
  void forget() override;
  void load(const Snapshot& snapshot) override;

  Signature step_;
  int32_t* token_;
  const float* scores_;
  std::vector<State> states_;
};

}  // namespace edgelm

#endif  // EDGELM_RECURRENT_SESSION_H_
