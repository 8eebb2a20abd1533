// What LiteRT makes of some signatures of a file: everything it sees, unpacked, packed and planned.
#ifndef EDGELM_MODEL_PART_H_
#define EDGELM_MODEL_PART_H_

#include <string>
#include <vector>

#include "litert_c.h"
#include "mapped_file.h"

namespace edgelm {

void check(LiteRtStatus status, const std::string& doing);  // throws Error unless it is kLiteRtStatusOk, Unsupported where LiteRT says so

class ModelPart {
 public:
  // `whole` is the file; `kept` are places in its list of signatures, ascending, none for all of them. Packed weights are kept in the
  // file `weight_cache`, unless it is empty. Throws Error: damaged, or an op LiteRT lacks.
  ModelPart(const MappedFile& whole, const std::vector<size_t>& kept, int threads, const std::string& weight_cache);
  ~ModelPart();
  ModelPart(const ModelPart&) = delete;
  ModelPart& operator=(const ModelPart&) = delete;

  // Runs the i-th of its signatures on memory in LiteRT's order.
  LiteRtStatus run(size_t i, std::vector<LiteRtTensorBuffer>& inputs, std::vector<LiteRtTensorBuffer>& outputs);

 private:
  void set_up(int threads);
  void release();

  MappedFile file_;
  size_t weights_begin_ = 0;  // 0: nothing to forget
  std::string weight_cache_;
  LiteRtEnvironment environment_ = nullptr;
  LiteRtModel model_ = nullptr;
  LiteRtOptions options_ = nullptr;
  LiteRtCompiledModel compiled_ = nullptr;
};

}  // namespace edgelm

#endif  // EDGELM_MODEL_PART_H_
