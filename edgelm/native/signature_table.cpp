#include "signature_table.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "litert_model.h"

namespace edgelm {
namespace {

// Fields of schema.fbs's tables, by their number.
enum { kModelSubgraphs = 2, kModelBuffers = 4, kModelSignatures = 7 };
enum { kSubgraphTensors = 0, kSubgraphInputs = 1, kSubgraphOutputs = 2, kSubgraphOperators = 3 };
enum { kOperatorInputs = 1 };
enum { kSignatureInputs = 0, kSignatureOutputs = 1, kSignatureKey = 2, kSignatureSubgraph = 4 };
enum { kMapName = 0, kMapTensor = 1 };
enum { kTensorShape = 0, kTensorType = 1, kTensorBuffer = 2, kTensorQuantization = 4, kTensorShapeSignature = 7 };
enum { kQuantizationKind = 4 };
enum { kBufferData = 0, kBufferOffset = 1 };

constexpr size_t kMostAxes = 8;  // of LiteRtLayout
constexpr uint8_t kBlockwise = 2;  // of the union QuantizationDetails

// TFLite's TensorType, by its number, as LiteRT's; 0 where edgelm has no use for it.
constexpr int kElementTypes[] = {kLiteRtElementTypeFloat32, kLiteRtElementTypeFloat16, kLiteRtElementTypeInt32, kLiteRtElementTypeUInt8,
                                 kLiteRtElementTypeInt64,   0,                         kLiteRtElementTypeBool,  kLiteRtElementTypeInt16,
                                 0,                         kLiteRtElementTypeInt8};

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

// A list in a FlatBuffer: where its elements begin, and how many there are.
struct Vector {
  size_t begin = 0, count = 0;
  size_t at(size_t i) const { return begin + 4 * i; }  // of numbers or references of 4 bytes
};

// Reads a FlatBuffer by places counted from its begin; a place outside of it is an Error.
class FlatBuffer {
 public:
  FlatBuffer(const void* data, size_t bytes) : data_(static_cast<const char*>(data)), bytes_(bytes) {}

  template <typename Number>
  Number get(size_t place) const {
    require(place, sizeof(Number));
    Number number;
    std::memcpy(&number, data_ + place, sizeof(Number));
    return number;
  }

  size_t follow(size_t place) const { return place + get<uint32_t>(place); }

  size_t root() const { return follow(0); }

  // The place of a table's field; 0 where it is not stored.
  size_t field(size_t table, int number) const {
    const auto fields = static_cast<size_t>(static_cast<int64_t>(table) - get<int32_t>(table));
    const size_t entry = 4 + 2 * static_cast<size_t>(number);
    const size_t offset = entry + 2 <= get<uint16_t>(fields) ? get<uint16_t>(fields + entry) : 0;
    return offset ? table + offset : 0;
  }

  template <typename Number>
  Number number(size_t table, int field_number) const {
    const size_t place = field(table, field_number);
    return place ? get<Number>(place) : Number{};
  }

  Vector vector(size_t table, int number, size_t element = 4) const {
    const size_t place = field(table, number);
    if (!place) return {};
    const Vector found{follow(place) + 4, get<uint32_t>(follow(place))};
    if (found.count > bytes_) damaged();
    require(found.begin, element * found.count);
    return found;
  }

  std::string text(size_t table, int number) const {
    const size_t place = field(table, number);
    if (!place) return {};
    const size_t begin = follow(place) + 4, size = get<uint32_t>(follow(place));
    require(begin, size);
    return {data_ + begin, size};
  }

  // The i-th table of a list of tables.
  size_t table(const Vector& tables, size_t i) const {
    if (i >= tables.count) damaged();
    return follow(tables.at(i));
  }

 private:
  void require(size_t place, size_t size) const {
    if (size > bytes_ || place > bytes_ - size) damaged();
  }

  [[noreturn]] static void damaged() { throw Error("the file is damaged or cut short"); }

  const char* data_;
  size_t bytes_;
};

LiteRtRankedTensorType type_of(const FlatBuffer& file, size_t tensor) {
  LiteRtRankedTensorType type{};
  const auto number = file.number<uint8_t>(tensor, kTensorType);
  type.element_type = static_cast<LiteRtElementType>(number < std::size(kElementTypes) ? kElementTypes[number] : 0);
  const Vector varying = file.vector(tensor, kTensorShapeSignature), fixed = file.vector(tensor, kTensorShape);
  const Vector shape = varying.count ? varying : fixed;
  if (shape.count > kMostAxes) throw Error("a tensor has " + std::to_string(shape.count) + " axes: at most 8");
  type.layout.rank = static_cast<unsigned int>(shape.count);
  for (size_t i = 0; i < shape.count; ++i) type.layout.dimensions[i] = file.get<int32_t>(shape.at(i));
  return type;
}

Tensors tensors_of(const FlatBuffer& file, const Vector& maps, size_t subgraph, const Vector& run_order) {
  Tensors found;
  const Vector tensors = file.vector(subgraph, kSubgraphTensors);
  for (size_t i = 0; i < maps.count; ++i) {
    const size_t map = file.table(maps, i);
    const auto index = file.number<uint32_t>(map, kMapTensor);
    found.infos.push_back({file.text(map, kMapName), type_of(file, file.table(tensors, index))});
    size_t place = 0;
    while (place < run_order.count && file.get<uint32_t>(run_order.at(place)) != index) ++place;
    found.places.push_back(place);
  }
  return found;
}

// Tensors that an op reads. The others are scales of blocks, which a quantized tensor names.
std::set<uint32_t> tensors_read(const FlatBuffer& file, size_t subgraph) {
  std::set<uint32_t> found;
  const Vector operators = file.vector(subgraph, kSubgraphOperators);
  for (size_t i = 0; i < operators.count; ++i) {
    const Vector inputs = file.vector(file.table(operators, i), kOperatorInputs);
    for (size_t k = 0; k < inputs.count; ++k) found.insert(file.get<uint32_t>(inputs.at(k)));
  }
  return found;
}

void find_weights(const FlatBuffer& file, const Vector& buffers, size_t subgraph, SignatureEntry& entry) {
  std::set<uint32_t> found;
  const Vector tensors = file.vector(subgraph, kSubgraphTensors);
  for (const uint32_t i : tensors_read(file, subgraph)) {
    if (i >= tensors.count) continue;  // -1: an input left out
    const size_t tensor = file.table(tensors, i);
    const auto number = file.number<uint32_t>(tensor, kTensorBuffer);
    const size_t buffer = file.table(buffers, number);
    const bool stored = file.number<uint64_t>(buffer, kBufferOffset) || file.vector(buffer, kBufferData, 1).count;
    const Vector shape = file.vector(tensor, kTensorShape);
    if (!stored || shape.count != 2 || file.get<int32_t>(shape.begin) == 1) continue;  // a single row is a bias
    found.insert(number);
    entry.halves |= type_of(file, tensor).element_type == kLiteRtElementTypeFloat16;
    const size_t quantization = file.field(tensor, kTensorQuantization);
    entry.blocks |= quantization && file.number<uint8_t>(file.follow(quantization), kQuantizationKind) == kBlockwise;
  }
  entry.weights = {found.begin(), found.end()};
}

}  // namespace

std::vector<int> TensorInfo::shape() const { return {type.layout.dimensions, type.layout.dimensions + type.layout.rank}; }

size_t TensorInfo::bytes() const {
  size_t total = element_bytes(type.element_type);
  for (int size : shape()) total = size > 0 ? total * static_cast<size_t>(size) : 0;
  if (total == 0) throw Error("tensor " + name + " has no fixed size");
  return total;
}

std::vector<SignatureEntry> signatures_in(const void* data, size_t bytes) {
  const FlatBuffer file(data, bytes);
  const Vector signatures = file.vector(file.root(), kModelSignatures), subgraphs = file.vector(file.root(), kModelSubgraphs);
  const Vector buffers = file.vector(file.root(), kModelBuffers);
  std::vector<SignatureEntry> found;
  for (size_t i = 0; i < signatures.count; ++i) {
    const size_t table = file.table(signatures, i), number = file.number<uint32_t>(table, kSignatureSubgraph);
    const size_t subgraph = file.table(subgraphs, number);
    found.push_back({file.text(table, kSignatureKey), number,
                     tensors_of(file, file.vector(table, kSignatureInputs), subgraph, file.vector(subgraph, kSubgraphInputs)),
                     tensors_of(file, file.vector(table, kSignatureOutputs), subgraph, file.vector(subgraph, kSubgraphOutputs)),
                     {}});
    find_weights(file, buffers, subgraph, found.back());
  }
  return found;
}

bool can_be_narrowed(const void* data, size_t bytes) {
  const FlatBuffer file(data, bytes);
  const Vector signatures = file.vector(file.root(), kModelSignatures), subgraphs = file.vector(file.root(), kModelSubgraphs);
  if (signatures.count != subgraphs.count) return false;
  for (size_t i = 0; i < signatures.count; ++i) {
    if (file.number<uint32_t>(file.table(signatures, i), kSignatureSubgraph) != i) return false;
  }
  return true;
}

bool have_same_weights(const std::vector<SignatureEntry>& signatures) {
  return std::all_of(signatures.begin(), signatures.end(),
                     [&](const SignatureEntry& entry) { return entry.weights == signatures.front().weights; });
}

size_t weights_begin(const void* data, size_t bytes) {
  const FlatBuffer file(data, bytes);
  const Vector buffers = file.vector(file.root(), kModelBuffers);
  uint64_t first = 0;
  for (size_t i = 0; i < buffers.count; ++i) {
    const auto offset = file.number<uint64_t>(file.table(buffers, i), kBufferOffset);
    if (offset && (first == 0 || offset < first)) first = offset;
  }
  return static_cast<size_t>(first);
}

void narrow(void* data, size_t bytes, const std::vector<size_t>& kept) {
  const FlatBuffer file(data, bytes);
  const auto put = [&](size_t place, size_t value) {
    const auto number = static_cast<uint32_t>(value);
    std::memcpy(static_cast<char*>(data) + place, &number, sizeof(number));
  };
  for (int list : {kModelSubgraphs, kModelSignatures}) {
    const Vector tables = file.vector(file.root(), list);
    for (size_t i = 0; i < kept.size(); ++i) put(tables.at(i), file.table(tables, kept[i]) - tables.at(i));
    put(tables.begin - 4, kept.size());
  }
  const Vector signatures = file.vector(file.root(), kModelSignatures);
  for (size_t i = 0; i < kept.size(); ++i) {  // a signature of subgraph 0 may store no number, and stays the first
    const size_t place = file.field(file.table(signatures, i), kSignatureSubgraph);
    if (place) put(place, i);
  }
}

}  // namespace edgelm
