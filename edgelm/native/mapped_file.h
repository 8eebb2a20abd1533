// A file mapped into memory; what is written there stays in this mapping.
#ifndef EDGELM_MAPPED_FILE_H_
#define EDGELM_MAPPED_FILE_H_

#include <cstddef>
#include <string>

namespace edgelm {

class MappedFile {
 public:
  explicit MappedFile(const std::string& path);  // throws Error: it cannot be opened, is a folder, or is empty
  MappedFile(const MappedFile& other);           // another mapping of the same file, even if its path holds another one by now
  ~MappedFile();
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  const void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  void* own() { return data_; }  // pages that are written to become this mapping's own

  // Lets go of the pages from `begin` on, which are read from the file again when they are needed. What was written there is gone.
  void forget(size_t begin) const;

 private:
  void map();

  std::string path_;
  int file_;
  void* data_;
  size_t bytes_;
};

}  // namespace edgelm

#endif  // EDGELM_MAPPED_FILE_H_
