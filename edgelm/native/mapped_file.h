// A file mapped into memory for reading.
#ifndef EDGELM_MAPPED_FILE_H_
#define EDGELM_MAPPED_FILE_H_

#include <cstddef>
#include <string>

namespace edgelm {

class MappedFile {
 public:
  explicit MappedFile(const std::string& path);  // throws Error: it cannot be opened, is a folder, or is empty
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void* data_;
  size_t bytes_;
};

}  // namespace edgelm

#endif  // EDGELM_MAPPED_FILE_H_
