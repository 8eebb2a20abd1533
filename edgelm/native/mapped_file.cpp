#include "mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "litert_model.h"

namespace edgelm {

MappedFile::MappedFile(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) throw Error(path + " cannot be opened: " + std::strerror(errno));
  struct stat status {};
  fstat(file, &status);
  bytes_ = S_ISREG(status.st_mode) ? static_cast<size_t>(status.st_size) : 0;
  data_ = bytes_ == 0 ? MAP_FAILED : mmap(nullptr, bytes_, PROT_READ, MAP_PRIVATE, file, 0);
  close(file);
  if (data_ == MAP_FAILED) throw Error(path + (bytes_ == 0 ? " is empty or no file" : " cannot be mapped into memory"));
}

MappedFile::~MappedFile() { munmap(data_, bytes_); }

}  // namespace edgelm
