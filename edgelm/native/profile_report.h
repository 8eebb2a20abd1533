// The report `edgelm-profile/1` of a run; edgelm/device/profile_report.py documents and reads it.
#ifndef EDGELM_PROFILE_REPORT_H_
#define EDGELM_PROFILE_REPORT_H_

#include <string>
#include <utility>
#include <vector>

#include "host_info.h"

namespace edgelm {

struct ProfileReport {
  std::string started_at;  // UTC, ISO 8601
  std::string model_name, model_sha256;
  long long model_bytes = 0;
  HostInfo device;
  int threads = 1;
  double load_ms = 0, first_token_ms = 0;
  long warmup = 0;
  std::vector<std::pair<std::string, std::vector<double>>> signature_ms;  // in the order they were first called
  size_t prefill_tokens = 0;
  std::vector<double> prefill_ms;  // empty: the session has no prefill
  double before_mb = 0, peak_mb = 0;

  // The median of all decoded tokens, ms.
  double median_ms() const;
  std::string json() const;
};

// What the verb `info` prints: the device and the runtime as in a report.
std::string info_json(const HostInfo& device);

}  // namespace edgelm

#endif  // EDGELM_PROFILE_REPORT_H_
