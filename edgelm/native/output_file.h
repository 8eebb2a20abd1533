// A file that appears whole or not at all.
#ifndef EDGELM_OUTPUT_FILE_H_
#define EDGELM_OUTPUT_FILE_H_

#include <cstddef>
#include <cstdio>
#include <string>

namespace edgelm {

// Writes beside `path` under a temporary name; `commit` renames it, anything else leaves `path` as it was.
class OutputFile {
 public:
  explicit OutputFile(const std::string& path);  // throws Error: the place cannot be written
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void write(const void* data, size_t bytes);  // throws Error: the disk is full
  void commit();                               // throws Error

 private:
  [[noreturn]] void fail(const char* doing) const;

  std::string path_, temporary_;
  std::FILE* file_;
};

}  // namespace edgelm

#endif  // EDGELM_OUTPUT_FILE_H_
