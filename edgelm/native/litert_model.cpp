#include "litert_model.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <set>

namespace edgelm {
namespace {

// XNNPACK reads up to 16 bytes past a tensor.
constexpr size_t kRoomBehind = 64;

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

Model::Model(const std::string& path, const Options& options) : options_(options), file_(path) {
  if (options.threads < 1) throw Error("threads = " + std::to_string(options.threads) + ": at least 1");
  const bool tflite = file_.bytes() >= 8 && std::memcmp(static_cast<const char*>(file_.data()) + 4, "TFL3", 4) == 0;
  if (!tflite) throw Error(path + " is no .tflite file");
  try {
    entries_ = signatures_in(file_.data(), file_.bytes());
    narrows_ = can_be_narrowed(file_.data(), file_.bytes());
  } catch (const Error& error) {
    throw Error("reading " + path + " failed: " + error.what());
  }
  for (const SignatureEntry& entry : entries_) {
    names_.push_back(entry.name);
    if (entry.halves) options_.weight_cache.clear();  // LiteRT 2.1 ends the process when it comes to write them into one
  }
}

Model::~Model() = default;

bool Model::has(const std::string& signature) const { return std::find(names_.begin(), names_.end(), signature) != names_.end(); }

size_t Model::place(const std::string& signature) const {
  const auto found = std::find(names_.begin(), names_.end(), signature);
  if (found != names_.end()) return static_cast<size_t>(found - names_.begin());
  std::string names;
  for (const std::string& name : names_) names += (names.empty() ? "" : ", ") + name;
  throw Error("the model has no signature " + signature + " (it has: " + (names.empty() ? "none" : names) + ")");
}

bool Model::takes_turns() const { return narrows_ && !options_.weight_cache.empty() && have_same_weights(entries_); }

void Model::prepare(const std::vector<std::string>& signatures) {
  std::set<size_t> wanted;
  for (const std::string& name : signatures) wanted.insert(place(name));
  if (part_ && std::includes(prepared_.begin(), prepared_.end(), wanted.begin(), wanted.end())) return;
  part_.reset();  // first: two parts at a time would take the memory of both
  prepared_.clear();
  if (!narrows_) {
    for (size_t i = 0; i < names_.size(); ++i) wanted.insert(i);
  }
  const std::vector<size_t> places(wanted.begin(), wanted.end());
  std::string cache = options_.weight_cache;
  if (cache_ && !cache_->is_kept()) cache.clear();  // by now it is another file's: this one's weights are packed once more
  if (!cache.empty() && !cache_) cache_.emplace(cache, file_.path());
  try {
    part_ = std::make_unique<ModelPart>(file_, places.size() < names_.size() ? places : std::vector<size_t>{}, options_.threads, cache);
  } catch (const Unsupported& error) {
    const bool blocks = std::any_of(entries_.begin(), entries_.end(), [](const SignatureEntry& entry) { return entry.blocks; });
    throw Error(error.what() + std::string(blocks ? "; it has 4-bit weights in blocks, which LiteRT's C library loads in version 2.1.2" : ""));
  }
  if (!cache.empty()) cache_->keep();
  prepared_ = places;
}

bool Model::is_prepared(const std::string& signature) const {
  return std::find(prepared_.begin(), prepared_.end(), place(signature)) != prepared_.end();
}

void Model::run(const std::string& signature, std::vector<LiteRtTensorBuffer>& inputs, std::vector<LiteRtTensorBuffer>& outputs) {
  if (!is_prepared(signature)) prepare(names_);
  const auto found = std::find(prepared_.begin(), prepared_.end(), place(signature));
  const LiteRtStatus status = part_->run(static_cast<size_t>(found - prepared_.begin()), inputs, outputs);
  if (status != kLiteRtStatusOk) check(status, "running signature " + signature);
}

const std::vector<TensorInfo>& Model::inputs(const std::string& signature) const { return entries_[place(signature)].inputs.infos; }

const std::vector<TensorInfo>& Model::outputs(const std::string& signature) const { return entries_[place(signature)].outputs.infos; }

const TensorInfo& Model::input(const std::string& signature, const std::string& name, LiteRtElementType type) const {
  return of_type(inputs(signature), name, type, signature);
}

const TensorInfo& Model::output(const std::string& signature, const std::string& name, LiteRtElementType type) const {
  return of_type(outputs(signature), name, type, signature);
}

Signature::Signature(std::shared_ptr<Model> model, const std::string& name, const Shared& shared)
    : model_(std::move(model)), name_(name) {
  const SignatureEntry& entry = model_->entries_[model_->place(name)];
  try {
    fill(inputs_, entry.inputs, shared);
    fill(outputs_, entry.outputs, {});
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

void Signature::fill(Side& side, const Tensors& tensors, const Shared& shared) {
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

void Signature::run() { model_->run(name_, inputs_.buffers, outputs_.buffers); }

}  // namespace edgelm
