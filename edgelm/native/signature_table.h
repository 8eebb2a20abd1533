// The signatures of a .tflite, read out of the file itself, and views of it that hold only some of them.
//
// LiteRT unpacks and sets up every subgraph it sees, at a cost in time and memory for each, while a ladder's rungs are needed one after
// the other. It has no way to leave some for later; a file that seems to hold fewer does the same. What is read here is the layout of
// TFLite's schema.fbs; every place is checked to lie in the file, and LiteRT verifies what it is given as always.
#ifndef EDGELM_SIGNATURE_TABLE_H_
#define EDGELM_SIGNATURE_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "litert_c.h"

namespace edgelm {

// Name, type and shape of an input or output, as the file states them.
struct TensorInfo {
  std::string name;
  LiteRtRankedTensorType type;

  std::vector<int> shape() const;
  size_t bytes() const;  // throws Error for a dynamic shape or a type without a fixed size
};

// Inputs or outputs of a signature, in the order in which it lists them.
struct Tensors {
  std::vector<TensorInfo> infos;
  std::vector<size_t> places;  // of each in the order LiteRT runs them, which is the subgraph's
};

// One signature and its subgraph.
struct SignatureEntry {
  std::string name;
  size_t subgraph;
  Tensors inputs, outputs;
  std::vector<uint32_t> weights;  // buffers of its matrices, which XNNPACK packs, ascending
  bool halves = false;            // one of them is of 16-bit floats
  bool blocks = false;            // one of them has a scale for each block of a row
};

// All signatures of a file in memory, in its order. Throws Error: the file is damaged.
std::vector<SignatureEntry> signatures_in(const void* file, size_t bytes);

// Whether a file with some of the signatures is still a model: each subgraph is the body of one signature.
bool can_be_narrowed(const void* file, size_t bytes);

// Whether all read the same weights, so that one weight cache serves them, whichever was set up when it was made.
bool have_same_weights(const std::vector<SignatureEntry>& signatures);

// Where the weights behind the root table begin; 0 where all lie in it.
size_t weights_begin(const void* file, size_t bytes);

// Changes a file in memory to hold only some signatures and their subgraphs: two lists become shorter, nothing moves.
// `kept` are places in the list of signatures, ascending, of a file that can be narrowed.
void narrow(void* file, size_t bytes, const std::vector<size_t>& kept);

}  // namespace edgelm

#endif  // EDGELM_SIGNATURE_TABLE_H_
