#include "runner_calls.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <numeric>
#include <vector>

#include "litert_model.h"
#include "output_file.h"

namespace edgelm {
namespace {

// A system call that does nothing (-1 is no file), seen by the emulator's instruction counter (insn_count.c).
enum class Phase : int { kStart = 1, kLoaded = 2, kRunDone = 3, kEnd = 4 };
constexpr off_t kMarker = 0xED6E;

void mark(Phase phase) { static_cast<void>(lseek(-1, kMarker, static_cast<int>(phase))); }

size_t total_bytes(const std::vector<TensorInfo>& tensors) {
  return std::accumulate(tensors.begin(), tensors.end(), size_t{0}, [](size_t sum, const TensorInfo& info) { return sum + info.bytes(); });
}

// The inputs file, checked to hold whole calls.
class Calls {
 public:
  Calls(const std::string& path, size_t call_bytes, const std::string& signature) : path_(path), file_(path, std::ios::binary) {
    if (!file_) throw Error(path + " cannot be opened: " + std::strerror(errno));
    file_.seekg(0, std::ios::end);
    const auto bytes = static_cast<long long>(file_.tellg());
    if (bytes <= 0 || bytes % static_cast<long long>(call_bytes) != 0) {
      throw Error(path + " holds " + std::to_string(bytes) + " bytes: a call of " + signature + " takes " + std::to_string(call_bytes));
    }
    count_ = static_cast<size_t>(bytes) / call_bytes;
    file_.seekg(0);
  }

  size_t count() const { return count_; }

  void read(void* to, size_t bytes) {
    if (!file_.read(static_cast<char*>(to), static_cast<std::streamsize>(bytes))) throw Error(path_ + " cannot be read");
  }

 private:
  std::string path_;
  std::ifstream file_;
  size_t count_ = 0;
};

}  // namespace

void run_calls(const Arguments& arguments) {
  mark(Phase::kStart);
  Options options;
  options.threads = static_cast<int>(arguments.number("--threads", 1, 1));
  const long repeat = arguments.number("--repeat", 1, 1);
  const auto model = std::make_shared<Model>(arguments.model(), options);
  Signature signature(model, arguments.text("--signature"));
  model->prepare({signature.name()});
  Calls calls(arguments.text("--inputs"), total_bytes(signature.inputs()), signature.name());
  OutputFile output(arguments.text("--outputs"));
  mark(Phase::kLoaded);
  for (size_t call = 0; call < calls.count(); ++call) {
    for (const TensorInfo& info : signature.inputs()) calls.read(signature.input(info.name), info.bytes());
    for (long i = 0; i < repeat; ++i) {
      signature.run();
      mark(Phase::kRunDone);
    }
    for (const TensorInfo& info : signature.outputs()) output.write(signature.output(info.name), info.bytes());
  }
  mark(Phase::kEnd);
  output.commit();
}

}  // namespace edgelm
