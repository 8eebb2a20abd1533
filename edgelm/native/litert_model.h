// A typed, zero-copy view of a .tflite file: signatures whose tensors are plain memory of the host.
//
// LiteRT runs on the memory it is given (`LiteRtCreateTensorBufferFromHostMemory`): writing to an input and reading an output is all a
// caller does, and nothing is copied around a run, however large the inputs are. Tensors of several signatures may share memory.
#ifndef EDGELM_LITERT_MODEL_H_
#define EDGELM_LITERT_MODEL_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "litert_c.h"
#include "mapped_file.h"
#include "model_part.h"
#include "signature_table.h"
#include "weight_cache.h"

namespace edgelm {

// What a user can mend: a missing or damaged file, an id outside of the vocabulary, a full context. `what()` is one sentence.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// What LiteRT says it does not support.
class Unsupported : public Error {
 public:
  using Error::Error;
};

// Memory of one tensor: zeros at first, aligned as LiteRT asks, with room behind it because its kernels read past the end.
class Memory {
 public:
  explicit Memory(size_t bytes);
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  std::unique_ptr<void, void (*)(void*)> block_;
  void* data_;
  size_t bytes_;
};

// How a model is loaded.
struct Options {
  int threads = 1;  // of LiteRT's own pool

  // A file where XNNPACK keeps its packed weights, made by the first load and mapped by later ones: it saves memory where a model has
  // several signatures (all share one packed copy) and most of the loading time, since a session then sets up a signature when the text
  // gets there. Made anew when the model file was changed. On Android: in Context.getCodeCacheDir(). Empty: none. Not used for
  // a model with matrices of 16-bit floats, which LiteRT cannot keep there.
  std::string weight_cache;
};

// A file; signatures keep it alive.
class Model {
 public:
  // Reads the signatures; nothing is set up to run yet. Throws Error: no such file, damaged, fewer than one thread.
  explicit Model(const std::string& path, const Options& options = {});
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const std::vector<std::string>& signatures() const { return names_; }
  bool has(const std::string& signature) const;

  // Inputs and outputs in the order of the signature in the file. Throws Error for an unknown name.
  const std::vector<TensorInfo>& inputs(const std::string& signature) const;
  const std::vector<TensorInfo>& outputs(const std::string& signature) const;

  // One of them by name. Throws Error: there is none, or it has another type.
  const TensorInfo& input(const std::string& signature, const std::string& name, LiteRtElementType type) const;
  const TensorInfo& output(const std::string& signature, const std::string& name, LiteRtElementType type) const;

  // Sets these signatures up to run, and lets go of those that were set up before; nothing where they are set up already. Each takes
  // LiteRT memory and time, so a caller that needs them by turns asks for few. Running one that is not set up sets all of them up.
  // Throws Error: an unknown name, an op LiteRT lacks, a damaged file.
  void prepare(const std::vector<std::string>& signatures);

  bool is_prepared(const std::string& signature) const;

  // Whether setting signatures up by turns is quick: a weight cache keeps the packed weights, and they are the same for all of them.
  bool takes_turns() const;

 private:
  friend class Signature;

  size_t place(const std::string& signature) const;  // in the file's list
  void run(const std::string& signature, std::vector<LiteRtTensorBuffer>& inputs, std::vector<LiteRtTensorBuffer>& outputs);

  Options options_;
  MappedFile file_;
  std::vector<SignatureEntry> entries_;
  std::vector<std::string> names_;
  bool narrows_ = false;
  std::optional<WeightCache> cache_;
  std::unique_ptr<ModelPart> part_;
  std::vector<size_t> prepared_;  // places of the part's signatures, ascending
};

// One signature with memory for its tensors.
class Signature {
 public:
  // Memory by input name that is used instead of new memory; it may be larger than the tensor.
  using Shared = std::map<std::string, std::shared_ptr<Memory>>;

  Signature(std::shared_ptr<Model> model, const std::string& name, const Shared& shared = {});
  ~Signature();
  Signature(const Signature&) = delete;
  Signature& operator=(const Signature&) = delete;

  const std::string& name() const { return name_; }
  const std::vector<TensorInfo>& inputs() const { return model_->inputs(name_); }
  const std::vector<TensorInfo>& outputs() const { return model_->outputs(name_); }

  // Memory of a tensor, which stays where it is. Throws Error for an unknown name, or another type.
  void* input(const std::string& name) const;
  const void* output(const std::string& name) const;
  float* float_input(const std::string& name) const;
  int32_t* int_input(const std::string& name) const;
  const float* float_output(const std::string& name) const;
  bool has_input(const std::string& name) const;

  // Reads the inputs, writes the outputs. Throws Error, for example when an id is outside of a table.
  void run();

 private:
  struct Side {
    std::vector<std::shared_ptr<Memory>> memories;  // in the order of the infos
    std::vector<LiteRtTensorBuffer> buffers;        // in the order LiteRT runs them
  };
  static void fill(Side& side, const Tensors& tensors, const Shared& shared);
  void release();

  std::shared_ptr<Model> model_;
  std::string name_;
  Side inputs_, outputs_;
};

}  // namespace edgelm

#endif  // EDGELM_LITERT_MODEL_H_
