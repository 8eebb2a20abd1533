#include "host_info.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <utility>

#ifdef __ANDROID__
#include <sys/system_properties.h>
#endif
#ifdef __aarch64__
#include <sys/auxv.h>
#endif

namespace edgelm {
namespace {

#if defined(__aarch64__)
constexpr const char* kAbi = "arm64-v8a";
#elif defined(__x86_64__)
constexpr const char* kAbi = "x86_64";
#elif defined(__arm__)
constexpr const char* kAbi = "armeabi-v7a";
#elif defined(__i386__)
constexpr const char* kAbi = "x86";
#else
constexpr const char* kAbi = "";
#endif

#if defined(__aarch64__)
// Bits of the auxiliary vector, as the kernel's uapi/asm/hwcap.h numbers them; the C library of an old sysroot lacks the later ones.
std::vector<std::string> features() {
  const std::vector<std::pair<int, const char*>> first = {{1, "neon"}, {10, "fp16"}, {20, "dotprod"}, {22, "sve"}};
  const std::vector<std::pair<int, const char*>> second = {{1, "sve2"}, {13, "i8mm"}, {14, "bf16"}, {23, "sme"}};
  std::vector<std::string> found;
  for (const auto& [bit, name] : first) {
    if (getauxval(AT_HWCAP) >> bit & 1) found.push_back(name);
  }
  for (const auto& [bit, name] : second) {
    if (getauxval(AT_HWCAP2) >> bit & 1) found.push_back(name);
  }
  return found;
}
#elif defined(__x86_64__) || defined(__i386__)
std::vector<std::string> features() {
  std::vector<std::string> found;
  if (__builtin_cpu_supports("avx")) found.push_back("avx");
  if (__builtin_cpu_supports("avx2")) found.push_back("avx2");
  if (__builtin_cpu_supports("fma")) found.push_back("fma");
  if (__builtin_cpu_supports("avx512f")) found.push_back("avx512f");
  if (__builtin_cpu_supports("avx512vnni")) found.push_back("avx512vnni");
  return found;
}
#else
std::vector<std::string> features() { return {}; }
#endif

#ifdef __ANDROID__
std::string property(const char* name) {
  char value[PROP_VALUE_MAX] = "";
  __system_property_get(name, value);
  return value;
}
#else
std::string property(const char*) { return ""; }
#endif

// A line `key: 1234 kB` of /proc/self/status, in MB; 0 where there is none.
double status_mb(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(key + ":", 0) == 0) return std::strtod(line.c_str() + key.size() + 1, nullptr) * 1024 / 1e6;
  }
  return 0;
}

}  // namespace

HostInfo host_info() {
  HostInfo info;
  info.manufacturer = property("ro.product.manufacturer");
  info.model = property("ro.product.model");
  info.soc = property("ro.soc.model");
  info.abi = kAbi;
  info.android_api = std::atoi(property("ro.build.version.sdk").c_str());
  info.cores = sysconf(_SC_NPROCESSORS_CONF);
  info.ram_mb = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE)) / 1e6;
  info.features = features();
  return info;
}

double resident_mb() { return status_mb("VmRSS"); }

double peak_resident_mb() { return status_mb("VmHWM"); }

}  // namespace edgelm
