#include "model_part.h"

#include "litert_model.h"

namespace edgelm {
namespace {

// XNNPACK has its own copy of the matrices; of the file, runs read the rows of an embedding that the text happens to need, and the
// system maps the pages around each. Left alone, a chat would soon hold a large table a second time.
constexpr size_t kWorthForgetting = 16 << 20;

}  // namespace

void check(LiteRtStatus status, const std::string& doing) {
  if (status == kLiteRtStatusOk) return;
  const std::string said = doing + " failed: LiteRT says " + LiteRtGetStatusString(status);
  if (status == kLiteRtStatusErrorUnsupported) throw Unsupported(said);
  throw Error(said);
}

ModelPart::ModelPart(const MappedFile& whole, const std::vector<size_t>& kept, int threads, const std::string& weight_cache)
    : file_(whole), weight_cache_(weight_cache) {
  if (!kept.empty()) narrow(file_.own(), file_.bytes(), kept);
  const size_t begin = weights_begin(file_.data(), file_.bytes());
  if (begin && begin + kWorthForgetting < file_.bytes()) weights_begin_ = begin;
  try {
    set_up(threads);
    if (weights_begin_) file_.forget(weights_begin_);
  } catch (...) {
    release();
    throw;
  }
}

ModelPart::~ModelPart() { release(); }

void ModelPart::set_up(int threads) {
  check(LiteRtCreateEnvironment(0, nullptr, &environment_), "starting LiteRT");
  // Unlike LiteRtCreateModelFromFile, this verifies the file, so that a damaged one is an error and no crash.
  check(LiteRtCreateModelFromBuffer(file_.data(), file_.bytes(), &model_), "reading " + file_.path());
  check(LiteRtCreateOptions(&options_), "starting LiteRT");
  check(LiteRtSetOptionsHardwareAccelerators(options_, kLiteRtHwAcceleratorCpu), "choosing the CPU");
  LiteRtOpaqueOptions opaque = nullptr;
  LiteRtCpuOptions cpu = nullptr;
  check(LiteRtCreateCpuOptions(&opaque), "starting LiteRT");
  check(LiteRtAddOpaqueOptions(options_, opaque), "starting LiteRT");  // from here on `options_` owns it
  check(LiteRtFindCpuOptions(opaque, &cpu), "starting LiteRT");
  check(LiteRtSetCpuOptionsNumThread(cpu, threads), "setting the number of threads");
  if (!weight_cache_.empty()) check(LiteRtSetCpuOptionsXnnPackWeightCachePath(cpu, weight_cache_.c_str()), "setting the weight cache");
  check(LiteRtCreateCompiledModel(environment_, model_, options_, &compiled_), "preparing " + file_.path());
}

void ModelPart::release() {
  if (compiled_) LiteRtDestroyCompiledModel(compiled_);
  if (options_) LiteRtDestroyOptions(options_);
  if (model_) LiteRtDestroyModel(model_);
  if (environment_) LiteRtDestroyEnvironment(environment_);
}

LiteRtStatus ModelPart::run(size_t i, std::vector<LiteRtTensorBuffer>& inputs, std::vector<LiteRtTensorBuffer>& outputs) {
  const LiteRtStatus status = LiteRtRunCompiledModel(compiled_, i, inputs.size(), inputs.data(), outputs.size(), outputs.data());
  if (weights_begin_) file_.forget(weights_begin_);
  return status;
}

}  // namespace edgelm
