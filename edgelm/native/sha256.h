// SHA-256 (FIPS 180-4), by which a report names the model it is about.
#ifndef EDGELM_SHA256_H_
#define EDGELM_SHA256_H_

#include <string>

namespace edgelm {

// 64 hex digits of a file's content. Throws Error when it cannot be read.
std::string sha256_of_file(const std::string& path);

}  // namespace edgelm

#endif  // EDGELM_SHA256_H_
