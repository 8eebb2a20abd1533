#include "litert_model.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "mapped_file.h"
#include "weight_cache.h"

namespace edgelm {
namespace {

// XNNPACK reads up to 16 bytes past a tensor.
constexpr size_t kRoomBehind = 64;

void check(LiteRtStatus status, const std::string& doing) {
  if (status != kLiteRtStatusOk) throw Error(doing + " failed: LiteRT says " + LiteRtGetStatusString(status));
}

size_t element_bytes(LiteRtElementType type) {
  switch (type) {
    case kLiteRtElementTypeBool:
    case kLiteRtElementTypeInt8:
    case kLiteRtElementTypeUInt8:
      return 1;
    case kLiteRtElementTypeInt16:
    case kLiteRtElementTypeFloat16:
      return 2;
    case kLiteRtElementTypeFloat32:
    case kLiteRtElementTypeInt32:
      return 4;
    case kLiteRtElementTypeInt64:
      return 8;
  }
  return 0;
}

// A C API's "how many" and "the i-th one" -> handles.
template <typename Handle, typename Owner>
std::vector<Handle> all(Owner owner, LiteRtStatus (*count)(Owner, LiteRtParamIndex*),
                        LiteRtStatus (*get)(Owner, LiteRtParamIndex, Handle*)) {
  LiteRtParamIndex size = 0;
  check(count(owner, &size), "reading the model");
  std::vector<Handle> found(size);
  for (LiteRtParamIndex i = 0; i < size; ++i) check(get(owner, i, &found[i]), "reading the model");
  return found;
}

size_t place_of(const std::string& name, const std::vector<TensorInfo>& infos, const std::string& signature) {
  for (size_t i = 0; i < infos.size(); ++i) {
    if (infos[i].name == name) return i;
  }
  throw Error("signature " + signature + " has no tensor named " + name);
}

const TensorInfo& of_type(const std::vector<TensorInfo>& infos, const std::string& name, LiteRtElementType type,
                          const std::string& signature) {
  const TensorInfo& info = infos[place_of(name, infos, signature)];
  if (info.type.element_type != type) throw Error("tensor " + name + " of signature " + signature + " has another type than edgelm's");
  return info;
}

}  // namespace

Memory::Memory(size_t bytes) : block_(std::calloc(1, bytes + kRoomBehind + kLiteRtHostMemoryAlignment), std::free), bytes_(bytes) {
  if (!block_) throw std::bad_alloc();
  const auto address = reinterpret_cast<uintptr_t>(block_.get());
  data_ = reinterpret_cast<void*>((address + kLiteRtHostMemoryAlignment - 1) / kLiteRtHostMemoryAlignment * kLiteRtHostMemoryAlignment);
}

std::vector<int> TensorInfo::shape() const { return {type.layout.dimensions, type.layout.dimensions + type.layout.rank}; }

size_t TensorInfo::bytes() const {
  size_t total = element_bytes(type.element_type);
  for (int size : shape()) total = size > 0 ? total * static_cast<size_t>(size) : 0;
  if (total == 0) throw Error("tensor " + name + " has no fixed size");
  return total;
}

struct Model::Handles {
  explicit Handles(const std::string& path) : file(path) {}

  MappedFile file;
  LiteRtEnvironment environment = nullptr;
  LiteRtModel model = nullptr;
  LiteRtOptions options = nullptr;
  LiteRtCompiledModel compiled = nullptr;

  ~Handles() {
    if (compiled) LiteRtDestroyCompiledModel(compiled);
    if (options) LiteRtDestroyOptions(options);
    if (model) LiteRtDestroyModel(model);
    if (environment) LiteRtDestroyEnvironment(environment);
  }
};

Model::Model(const std::string& path, const Options& options) : handles_(std::make_unique<Handles>(path)) {
  if (options.threads < 1) throw Error("threads = " + std::to_string(options.threads) + ": at least 1");
  Handles& handles = *handles_;
  const MappedFile& file = handles.file;
  if (file.bytes() < 8 || std::memcmp(static_cast<const char*>(file.data()) + 4, "TFL3", 4) != 0) throw Error(path + " is no .tflite file");
  check(LiteRtCreateEnvironment(0, nullptr, &handles.environment), "starting LiteRT");
  // Unlike LiteRtCreateModelFromFile, this verifies the file, so that a damaged one is an error and no crash.
  check(LiteRtCreateModelFromBuffer(file.data(), file.bytes(), &handles.model), "reading " + path);
  check(LiteRtCreateOptions(&handles.options), "starting LiteRT");
  check(LiteRtSetOptionsHardwareAccelerators(handles.options, kLiteRtHwAcceleratorCpu), "choosing the CPU");
  LiteRtOpaqueOptions opaque = nullptr;
  LiteRtCpuOptions cpu = nullptr;
  check(LiteRtCreateCpuOptions(&opaque), "starting LiteRT");
  check(LiteRtAddOpaqueOptions(handles.options, opaque), "starting LiteRT");  // from here on `options` owns it
  check(LiteRtFindCpuOptions(opaque, &cpu), "starting LiteRT");
  check(LiteRtSetCpuOptionsNumThread(cpu, options.threads), "setting the number of threads");
  std::optional<WeightCache> cache;
  if (!options.weight_cache.empty()) {
    cache.emplace(options.weight_cache, path);
    check(LiteRtSetCpuOptionsXnnPackWeightCachePath(cpu, options.weight_cache.c_str()), "setting the weight cache");
  }
  check(LiteRtCreateCompiledModel(handles.environment, handles.model, handles.options, &handles.compiled), "preparing " + path);
  if (cache) cache->keep();
  LiteRtParamIndex count = 0;
  check(LiteRtGetNumModelSignatures(handles.model, &count), "reading the model");
  for (LiteRtParamIndex i = 0; i < count; ++i) read(i);
}

Model::~Model() = default;

// Notes names, types and order of a signature's tensors. The file lists them in one order, LiteRT runs them in the subgraph's.
void Model::read(size_t index) {
  LiteRtSignature signature = nullptr;
  LiteRtSubgraph subgraph = nullptr;
  const char* key = nullptr;
  check(LiteRtGetModelSignature(handles_->model, index, &signature), "reading the model");
  check(LiteRtGetSignatureKey(signature, &key), "reading the model");
  check(LiteRtGetSignatureSubgraph(signature, &subgraph), "reading the model");
  const auto collect = [](const auto& named, const auto& names, const auto& run_order) {
    Tensors tensors;
    for (size_t i = 0; i < named.size(); ++i) {
      TensorInfo info{names[i], {}};
      check(LiteRtGetRankedTensorType(named[i], &info.type), "reading tensor " + info.name);
      tensors.places.push_back(std::find(run_order.begin(), run_order.end(), named[i]) - run_order.begin());
      tensors.infos.push_back(info);
    }
    return tensors;
  };
  Content content;
  content.index = index;
  content.inputs = collect(all(signature, LiteRtGetNumSignatureInputs, LiteRtGetSignatureInputTensorByIndex),
                           all(signature, LiteRtGetNumSignatureInputs, LiteRtGetSignatureInputName),
                           all(subgraph, LiteRtGetNumSubgraphInputs, LiteRtGetSubgraphInput));
  content.outputs = collect(all(signature, LiteRtGetNumSignatureOutputs, LiteRtGetSignatureOutputTensorByIndex),
                            all(signature, LiteRtGetNumSignatureOutputs, LiteRtGetSignatureOutputName),
                            all(subgraph, LiteRtGetNumSubgraphOutputs, LiteRtGetSubgraphOutput));
  names_.push_back(key);
  contents_.emplace(key, std::move(content));
}

bool Model::has(const std::string& signature) const { return contents_.count(signature) != 0; }

const Model::Content& Model::content(const std::string& signature) const {
  const auto found = contents_.find(signature);
  if (found != contents_.end()) return found->second;
  std::string names;
  for (const std::string& name : names_) names += (names.empty() ? "" : ", ") + name;
  throw Error("the model has no signature " + signature + " (it has: " + (names.empty() ? "none" : names) + ")");
}

const std::vector<TensorInfo>& Model::inputs(const std::string& signature) const { return content(signature).inputs.infos; }

const std::vector<TensorInfo>& Model::outputs(const std::string& signature) const { return content(signature).outputs.infos; }

const TensorInfo& Model::input(const std::string& signature, const std::string& name, LiteRtElementType type) const {
  return of_type(inputs(signature), name, type, signature);
}

const TensorInfo& Model::output(const std::string& signature, const std::string& name, LiteRtElementType type) const {
  return of_type(outputs(signature), name, type, signature);
}

Signature::Signature(std::shared_ptr<Model> model, const std::string& name, const Shared& shared)
    : model_(std::move(model)), name_(name), index_(model_->content(name).index) {
  try {
    fill(inputs_, model_->content(name).inputs, shared);
    fill(outputs_, model_->content(name).outputs, {});
  } catch (...) {
    release();
    throw;
  }
}

Signature::~Signature() { release(); }

void Signature::release() {
  for (const Side* side : {&inputs_, &outputs_}) {
    for (LiteRtTensorBuffer buffer : side->buffers) {
      if (buffer) LiteRtDestroyTensorBuffer(buffer);
    }
  }
}

void Signature::fill(Side& side, const Model::Tensors& tensors, const Shared& shared) {
  side.buffers.resize(tensors.infos.size(), nullptr);
  for (size_t i = 0; i < tensors.infos.size(); ++i) {
    const TensorInfo& info = tensors.infos[i];
    const auto given = shared.find(info.name);
    side.memories.push_back(given == shared.end() ? std::make_shared<Memory>(info.bytes()) : given->second);
    if (side.memories.back()->bytes() < info.bytes()) throw Error("the memory given for tensor " + info.name + " is too small");
    if (tensors.places[i] >= side.buffers.size() || side.buffers[tensors.places[i]]) {
      throw Error("tensor " + info.name + " is no input or output of its own in its subgraph");
    }
    LiteRtTensorBuffer& buffer = side.buffers[tensors.places[i]];
    check(LiteRtCreateTensorBufferFromHostMemory(&info.type, side.memories.back()->data(), info.bytes(), nullptr, &buffer),
          "making the buffer of tensor " + info.name);
  }
}

void* Signature::input(const std::string& name) const { return inputs_.memories[place_of(name, inputs(), name_)]->data(); }

const void* Signature::output(const std::string& name) const { return outputs_.memories[place_of(name, outputs(), name_)]->data(); }

float* Signature::float_input(const std::string& name) const {
  model_->input(name_, name, kLiteRtElementTypeFloat32);
  return static_cast<float*>(input(name));
}

int32_t* Signature::int_input(const std::string& name) const {
  model_->input(name_, name, kLiteRtElementTypeInt32);
  return static_cast<int32_t*>(input(name));
}

const float* Signature::float_output(const std::string& name) const {
  model_->output(name_, name, kLiteRtElementTypeFloat32);
  return static_cast<const float*>(output(name));
}

bool Signature::has_input(const std::string& name) const {
  return std::any_of(inputs().begin(), inputs().end(), [&](const TensorInfo& info) { return info.name == name; });
}

void Signature::run() {
  const LiteRtStatus status = LiteRtRunCompiledModel(model_->handles_->compiled, index_, inputs_.buffers.size(), inputs_.buffers.data(),
                                                     outputs_.buffers.size(), outputs_.buffers.data());
  if (status != kLiteRtStatusOk) check(status, "running signature " + name_);
}

}  // namespace edgelm
