// A minimal host of llama.cpp, the counterpart of edgelm_runner: the same work through libllama's C API, nothing else in the process.
//
//   llama_host quantize IN.gguf OUT.gguf Q8_0|Q4_0|Q4_0-pure
//   llama_host tokens MODEL.gguf --ids 1,2,3 --prefill N --outputs OUT.bin [--threads 1]
//       the first N ids in one call, the others one by one; the float32 logits after each call
//   llama_host time MODEL.gguf --ids 1,2,3,... --plan prefill:128x3,decode:100+4+20 --json OUT.json [--threads 1]
//       prefill:TxR takes T ids R times; decode:D+W+N takes D ids, then W steps untimed and N timed. Milliseconds of each.
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "llama.h"

namespace {

using Clock = std::chrono::steady_clock;
using Options = std::map<std::string, std::string>;

constexpr int kContext = 1024;

double ms_since(Clock::time_point start) { return std::chrono::duration<double, std::milli>(Clock::now() - start).count(); }

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

class Session {
 public:
  Session(const std::string& path, int threads) {
    llama_model_params model_params = llama_model_default_params();
    model_params.n_gpu_layers = 0;
    model_ = llama_model_load_from_file(path.c_str(), model_params);
    if (!model_) throw std::runtime_error("cannot load " + path);
    llama_context_params params = llama_context_default_params();
    params.n_ctx = kContext;
    params.n_threads = params.n_threads_batch = threads;
    context_ = llama_init_from_model(model_, params);
    if (!context_) throw std::runtime_error("cannot make a context");
    vocab_size_ = llama_vocab_n_tokens(llama_model_get_vocab(model_));
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session() {
    llama_free(context_);
    llama_model_free(model_);
  }

  int vocab_size() const { return vocab_size_; }
  void reset() { llama_memory_clear(llama_get_memory(context_), false); }

  // Takes tokens in one call; the logits after the last.
  const float* take(std::vector<llama_token> tokens) {
    if (llama_decode(context_, llama_batch_get_one(tokens.data(), static_cast<int32_t>(tokens.size())))) throw std::runtime_error("llama_decode");
    return llama_get_logits_ith(context_, -1);
  }

 private:
  llama_model* model_ = nullptr;
  llama_context* context_ = nullptr;
  int vocab_size_ = 0;
};

std::vector<llama_token> ids_of(const Options& options) {
  std::vector<llama_token> ids;
  for (const std::string& id : split(options.at("--ids"), ',')) ids.push_back(std::stoi(id));
  return ids;
}

int number(const Options& options, const std::string& name, int usual) {
  const auto found = options.find(name);
  return found == options.end() ? usual : std::stoi(found->second);
}

void quantize(const std::string& input, const std::string& output, const std::string& type) {
  llama_model_quantize_params params = llama_model_quantize_default_params();
  params.nthread = 1;
  params.ftype = type == "Q8_0" ? LLAMA_FTYPE_MOSTLY_Q8_0 : LLAMA_FTYPE_MOSTLY_Q4_0;
  params.pure = type == "Q4_0-pure";
  if (llama_model_quantize(input.c_str(), output.c_str(), &params)) throw std::runtime_error("llama_model_quantize");
}

void tokens(const std::string& model, const Options& options) {
  const std::vector<llama_token> ids = ids_of(options);
  const auto prefill = static_cast<size_t>(number(options, "--prefill", 1));
  Session session(model, number(options, "--threads", 1));
  std::ofstream output(options.at("--outputs"), std::ios::binary);
  const auto write = [&](const float* logits) { output.write(reinterpret_cast<const char*>(logits), 4L * session.vocab_size()); };
  write(session.take({ids.begin(), ids.begin() + static_cast<long>(prefill)}));
  for (size_t i = prefill; i < ids.size(); ++i) write(session.take({ids[i]}));
}

// Milliseconds of one item of the plan.
std::vector<double> timed(Session& session, const std::vector<llama_token>& ids, const std::string& item) {
  const auto first = [&](int count) { return std::vector<llama_token>(ids.begin(), ids.begin() + count); };
  std::vector<double> found;
  int a = 0, b = 0, c = 0;
  if (std::sscanf(item.c_str(), "prefill:%dx%d", &a, &b) == 2) {
    for (int i = 0; i < b; ++i) {
      session.reset();
      const auto start = Clock::now();
      session.take(first(a));
      found.push_back(ms_since(start));
    }
  } else if (std::sscanf(item.c_str(), "decode:%d+%d+%d", &a, &b, &c) == 3) {
    session.reset();
    session.take(first(a));
    for (int i = 0; i < b + c; ++i) {
      const auto start = Clock::now();
      session.take({ids[static_cast<size_t>(a + i)]});
      if (i >= b) found.push_back(ms_since(start));
    }
  } else {
    throw std::runtime_error("cannot read " + item);
  }
  return found;
}

void time_plan(const std::string& model, const Options& options) {
  const std::vector<llama_token> ids = ids_of(options);
  const auto start = Clock::now();
  Session session(model, number(options, "--threads", 1));
  const double load_ms = ms_since(start);
  session.take({ids[0]});
  std::ofstream output(options.at("--json"));
  output << "{\"load_ms\": " << load_ms << ", \"timed\": {";
  const char* comma = "";
  for (const std::string& item : split(options.at("--plan"), ',')) {
    output << comma << "\"" << item.substr(0, item.find_first_of("x+")) << "\": [";
    const char* inner = "";
    for (const double ms : timed(session, ids, item)) {
      output << inner << ms;
      inner = ", ";
    }
    output << "]";
    comma = ", ";
  }
  output << "}}\n";
}

int run(int count, char** words) {
  if (count < 3) throw std::runtime_error("usage: llama_host quantize|tokens|time MODEL ...");
  const std::string verb = words[1], model = words[2];
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  llama_backend_init();
  if (verb == "quantize" && count == 5) {
    quantize(model, words[3], words[4]);
    return 0;
  }
  Options options;
  for (int i = 3; i + 1 < count; i += 2) options[words[i]] = words[i + 1];
  if (verb == "tokens") tokens(model, options);
  if (verb == "time") time_plan(model, options);
  return 0;
}

}  // namespace

int main(int count, char** words) {
  try {
    return run(count, words);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
