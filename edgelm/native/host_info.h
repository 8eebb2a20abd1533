// The machine the runner runs on, and this process's memory.
#ifndef EDGELM_HOST_INFO_H_
#define EDGELM_HOST_INFO_H_

#include <string>
#include <vector>

namespace edgelm {

// What is unknown is "" or 0.
struct HostInfo {
  std::string manufacturer, model, soc, abi;
  int android_api = 0;
  long cores = 0;
  double ram_mb = 0;
  std::vector<std::string> features;  // that decide XNNPACK's kernels
};

HostInfo host_info();

// Resident memory of this process, MB of 10^6 bytes.
double resident_mb();
double peak_resident_mb();

}  // namespace edgelm

#endif  // EDGELM_HOST_INFO_H_
