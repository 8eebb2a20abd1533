// edgelm_runner: runs an artifact on a device and writes what edgelm reads.
#include <cstdio>
#include <exception>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "arguments.h"
#include "litert_model.h"
#include "runner_calls.h"
#include "runner_session.h"
#include "runtime_messages.h"

namespace edgelm {
namespace {

constexpr const char* kUsage =
    "usage: edgelm_runner calls MODEL --signature NAME --inputs IN.bin --outputs OUT.bin [--threads 1] [--repeat N]\n"
    "       edgelm_runner bench MODEL --json OUT.json [--prompt 32] [--tokens 128] [--warmup 8] [--threads 1] [--seed 0]\n"
    "                                 [--weight-cache FILE]\n"
    "       edgelm_runner tokens MODEL --ids 1,2,3 --outputs OUT.bin [--prefill 0] [--threads 1] [--weight-cache FILE]\n"
    "       edgelm_runner info\n";

struct Verb {
  std::vector<std::string> options;
  std::function<void(const Arguments&)> run;
};

const std::map<std::string, Verb>& verbs() {
  static const std::map<std::string, Verb> all = {
      {"calls", {{"--signature", "--inputs", "--outputs", "--threads", "--repeat"}, run_calls}},
      {"bench", {{"--json", "--prompt", "--tokens", "--warmup", "--threads", "--seed", "--weight-cache"}, run_bench}},
      {"tokens", {{"--ids", "--prefill", "--outputs", "--threads", "--weight-cache"}, run_tokens}},
      {"info", {{}, run_info}},
  };
  return all;
}

int run(int count, char** words) {
  const auto verb = count > 1 ? verbs().find(words[1]) : verbs().end();
  if (verb == verbs().end()) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  std::string problem, detail;
  {
    RuntimeMessages messages;
    try {
      verb->second.run(Arguments(count - 2, words + 2, verb->second.options));
      return 0;
    } catch (const std::exception& error) {
      problem = error.what();
      detail = messages.last_error();
    }
  }
  std::fprintf(stderr, "error: %s%s%s%s\n", problem.c_str(), detail.empty() ? "" : " (", detail.c_str(), detail.empty() ? "" : ")");
  return 1;
}

}  // namespace
}  // namespace edgelm

int main(int count, char** words) { return edgelm::run(count, words); }
