// A language model of edgelm's in a C++ app: open a `.tflite`, feed it token ids, read logits.
//
//   auto session = edgelm::open_session("keyboard.tflite");
//   session->prefill({17, 4, 250});
//   for (int i = 0; i < 20; ++i) session->step(session->logits().best());
//
// States and caches stay where LiteRT reads them and nothing is allocated in a step: a step copies only what it added (the states of a
// recurrent model, one row of each cache of a transformer). A transformer runs on the shortest of its `decode_C` signatures that has
// a free slot, and takes several tokens at once in its `prefill_T` ones; with a weight cache (`Options`), the step that outgrows a
// signature takes a little longer, while the next one is set up. The logits are bit for bit those of edgelm's Python sessions
// on the same CPU. A session is for one thread at a time.
//
// CMake's target `edgelm_lm` lists the files an app needs; they depend on nothing but libLiteRt.so.
#ifndef EDGELM_LM_H_
#define EDGELM_LM_H_

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "litert_model.h"

namespace edgelm {

// How likely each token of the vocabulary is to come next: a view of the session's memory that holds until its next call.
class Logits {
 public:
  Logits() = default;
  Logits(const float* data, size_t size) : data_(data), size_(size) {}
  const float* data() const { return data_; }
  size_t size() const { return size_; }
  const float* begin() const { return data_; }
  const float* end() const { return data_ + size_; }
  float operator[](size_t token) const { return data_[token]; }
  int best() const;  // the likeliest token, the first of equals; -1 when empty

 private:
  const float* data_ = nullptr;
  size_t size_ = 0;
};

// What the tokens taken so far left behind, copied. It belongs to the session it was taken from.
struct Snapshot {
  int position = 0;
  std::vector<std::vector<float>> states;
};

// A model in the middle of a text.
class Session {
 public:
  virtual ~Session() = default;

  // Takes one token. Throws Error, with the session unchanged: an id outside of the vocabulary, or a full context.
  Logits step(int token);

  // Takes several tokens, in larger calls where the model has them. Throws Error, with none taken: as `step`, or none were given.
  Logits prefill(const std::vector<int>& tokens);

  // Forgets everything: position 0.
  void reset();

  // Goes back, or over, to where a snapshot was taken; the logits of that moment are gone.
  virtual Snapshot snapshot() const = 0;
  void restore(const Snapshot& snapshot);

  Logits logits() const { return logits_; }                          // after the last token; empty before the first
  int position() const { return position_; }                         // tokens taken
  int vocab_size() const { return vocab_size_; }
  int max_positions() const { return max_positions_; }               // tokens it can take; 0: no end
  const std::string& signature() const { return *signature_name_; }  // that ran last; empty before the first

 protected:
  Session(int vocab_size, int max_positions);

  // The work of the methods above, on arguments that were checked. Both `take`s end in `ran`.
  virtual void take(int token) = 0;
  virtual void take_all(const int* tokens, size_t count) = 0;
  virtual void forget() = 0;
  virtual void load(const Snapshot& snapshot) = 0;
  void ran(const Signature& signature, const float* scores, int position);

  static int vocab_of(const Model& model, const std::string& signature);

 private:
  void admit(const int* tokens, size_t count) const;

  int vocab_size_, max_positions_;
  int position_ = 0;
  Logits logits_;
  const std::string* signature_name_;
};

// Loads a model and opens the session that its signatures call for: `step`, or `decode_C` with `prefill_T`.
// Throws Error: the file is missing or damaged, or has none of these signatures.
std::unique_ptr<Session> open_session(const std::string& path, const Options& options = {});

}  // namespace edgelm

#endif  // EDGELM_LM_H_
