#include "runner_session.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <random>

#include "edgelm_lm.h"
#include "output_file.h"
#include "profile_report.h"
#include "sha256.h"

namespace edgelm {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kPrefillRuns = 5;

double ms_since(Clock::time_point start) { return std::chrono::duration<double, std::milli>(Clock::now() - start).count(); }

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[sizeof "2026-11-22T10:00:00Z"];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

std::string stem(const std::string& path) {
  const std::string name = path.substr(path.find_last_of('/') + 1);
  return name.substr(0, name.rfind('.'));
}

Options options_of(const Arguments& arguments) {
  Options options;
  options.threads = static_cast<int>(arguments.number("--threads", 1, 1));
  options.weight_cache = arguments.text("--weight-cache", "");
  return options;
}

// Tokens that are the same for the same seed on every device.
class RandomTokens {
 public:
  RandomTokens(long seed, int vocab_size) : engine_(static_cast<std::mt19937::result_type>(seed)), vocab_size_(vocab_size) {}
  int next() { return static_cast<int>(engine_() % static_cast<unsigned>(vocab_size_)); }
  std::vector<int> next(size_t count) {
    std::vector<int> tokens(count);
    for (int& token : tokens) token = next();
    return tokens;
  }

 private:
  std::mt19937 engine_;
  int vocab_size_;
};

// Takes the prompt a few times; what is timed are the runs after the first, which prepares the signatures.
void time_prefill(Session& session, const std::vector<int>& prompt, ProfileReport& report) {
  for (int i = 0; i <= kPrefillRuns; ++i) {
    session.reset();
    const Clock::time_point start = Clock::now();
    session.prefill(prompt);
    if (session.signature().rfind("prefill_", 0) != 0) return;
    if (i > 0) report.prefill_ms.push_back(ms_since(start));
  }
  report.prefill_tokens = prompt.size();
}

std::vector<double>& times_of(ProfileReport& report, const std::string& signature) {
  auto& all = report.signature_ms;
  auto known = std::find_if(all.begin(), all.end(), [&](const auto& entry) { return entry.first == signature; });
  return known == all.end() ? all.emplace_back(signature, std::vector<double>()).second : known->second;
}

// Goes on from the prompt; a full session starts over.
void time_decode(Session& session, RandomTokens& random, long tokens, ProfileReport& report) {
  for (long i = 0; i < report.warmup + tokens; ++i) {
    if (session.position() == session.max_positions()) session.reset();
    const int token = random.next();
    const Clock::time_point start = Clock::now();
    session.step(token);
    const double ms = ms_since(start);
    if (i >= report.warmup) times_of(report, session.signature()).push_back(ms);
  }
}

}  // namespace

void run_tokens(const Arguments& arguments) {
  const std::vector<int> ids = arguments.ids("--ids");
  const auto prompt = std::min(ids.size(), static_cast<size_t>(arguments.number("--prefill", 0, 0)));
  const auto session = open_session(arguments.model(), options_of(arguments));
  OutputFile output(arguments.text("--outputs"));
  const auto write = [&output](const Logits& logits) { output.write(logits.data(), logits.size() * sizeof(float)); };
  if (prompt > 0) write(session->prefill({ids.begin(), ids.begin() + static_cast<long>(prompt)}));
  for (size_t i = prompt; i < ids.size(); ++i) write(session->step(ids[i]));
  output.commit();
}

void run_bench(const Arguments& arguments) {
  const long prompt = arguments.number("--prompt", 32, 0), tokens = arguments.number("--tokens", 128, 1);
  const long seed = arguments.number("--seed", 0, 0);
  const Options options = options_of(arguments);
  OutputFile output(arguments.text("--json"));
  ProfileReport report;
  report.started_at = utc_now();
  report.device = host_info();
  report.threads = options.threads;
  report.warmup = arguments.number("--warmup", 8, 0);
  report.before_mb = resident_mb();

  const Clock::time_point start = Clock::now();
  const auto session = open_session(arguments.model(), options);
  report.load_ms = ms_since(start);
  RandomTokens random(seed, session->vocab_size());
  session->step(random.next());
  report.first_token_ms = ms_since(start);
  if (prompt > 0) time_prefill(*session, random.next(static_cast<size_t>(prompt)), report);
  time_decode(*session, random, tokens, report);
  report.peak_mb = peak_resident_mb();

  report.model_name = stem(arguments.model());
  report.model_sha256 = sha256_of_file(arguments.model());
  report.model_bytes = static_cast<long long>(std::ifstream(arguments.model(), std::ios::ate | std::ios::binary).tellg());
  const std::string json = report.json();
  output.write(json.data(), json.size());
  output.commit();
  std::printf("%s: %.3f ms a token (median of %ld), loaded in %.1f ms, first token after %.1f ms, peak memory %.1f MB\n",
              report.model_name.c_str(), report.median_ms(), tokens, report.load_ms, report.first_token_ms, report.peak_mb);
}

void run_info(const Arguments&) { std::fputs(info_json(host_info()).c_str(), stdout); }

}  // namespace edgelm
