#include "profile_report.h"

#include <algorithm>
#include <cstdio>
#include <sstream>

#include "litert_c.h"

namespace edgelm {
namespace {

constexpr const char* kToolVersion = "0.1.0";

std::string quoted(const std::string& text) {
  std::string json = "\"";
  for (const char letter : text) {
    if (static_cast<unsigned char>(letter) < 0x20) continue;
    if (letter == '"' || letter == '\\') json += '\\';
    json += letter;
  }
  return json + '"';
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4f", value);
  return text;
}

template <typename Items, typename Format>
std::string list(const Items& items, const Format& format) {
  std::string json = "[";
  for (const auto& item : items) json += (json.size() > 1 ? ", " : "") + format(item);
  return json + "]";
}

std::string device_json(const HostInfo& device) {
  std::ostringstream json;
  json << "{\"manufacturer\": " << quoted(device.manufacturer) << ", \"model\": " << quoted(device.model)
       << ", \"soc\": " << quoted(device.soc) << ", \"abi\": " << quoted(device.abi) << ", \"android_api\": " << device.android_api
       << ", \"cores\": " << device.cores << ", \"ram_mb\": " << number(device.ram_mb)
       << ", \"features\": " << list(device.features, quoted) << "}";
  return json.str();
}

std::string signatures_json(const std::vector<std::pair<std::string, std::vector<double>>>& signature_ms) {
  std::string json = "{";
  for (const auto& [name, ms] : signature_ms) json += (json.size() > 1 ? ", " : "") + quoted(name) + ": " + list(ms, number);
  return json + "}";
}

}  // namespace

double ProfileReport::median_ms() const {
  std::vector<double> all;
  for (const auto& entry : signature_ms) all.insert(all.end(), entry.second.begin(), entry.second.end());
  if (all.empty()) return 0;
  const auto middle = all.begin() + static_cast<long>(all.size() / 2);
  std::nth_element(all.begin(), middle, all.end());
  return *middle;
}

std::string ProfileReport::json() const {
  std::ostringstream json;
  json << "{\"schema\": \"edgelm-profile/1\",\n \"made_by\": \"runner\", \"tool_version\": \"" << kToolVersion
       << "\", \"started_at\": " << quoted(started_at) << ",\n \"model\": {\"name\": " << quoted(model_name)
       << ", \"sha256\": " << quoted(model_sha256) << ", \"bytes\": " << model_bytes << "},\n \"device\": " << device_json(device)
       << ",\n \"runtime\": {\"name\": \"ai-edge-litert\", \"version\": \"" << EDGELM_LITERT_VERSION << "\", \"threads\": " << threads
       << "},\n \"load_ms\": " << number(load_ms) << ", \"first_token_ms\": " << number(first_token_ms)
       << ",\n \"decode\": {\"signature_ms\": " << signatures_json(signature_ms) << ", \"warmup\": " << warmup << "},\n \"prefill\": ";
  if (prefill_ms.empty()) {
    json << "null";
  } else {
    json << "{\"tokens\": " << prefill_tokens << ", \"ms\": " << list(prefill_ms, number) << "}";
  }
  json << ",\n \"memory\": {\"before_mb\": " << number(before_mb) << ", \"peak_mb\": " << number(peak_mb) << "},\n \"thermal\": []}\n";
  return json.str();
}

std::string info_json(const HostInfo& device) {
  return "{\"device\": " + device_json(device) + ",\n \"runtime\": {\"name\": \"ai-edge-litert\", \"version\": \"" EDGELM_LITERT_VERSION
         "\"}, \"tool_version\": \"" + kToolVersion + "\"}\n";
}

}  // namespace edgelm
