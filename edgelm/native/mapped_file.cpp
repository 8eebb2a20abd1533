#include "mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "litert_model.h"

namespace edgelm {

MappedFile::MappedFile(const std::string& path) : path_(path), file_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (file_ < 0) throw Error(path + " cannot be opened: " + std::strerror(errno));
  struct stat status {};
  fstat(file_, &status);
  bytes_ = S_ISREG(status.st_mode) ? static_cast<size_t>(status.st_size) : 0;
  map();
}

MappedFile::MappedFile(const MappedFile& other) : path_(other.path_), file_(fcntl(other.file_, F_DUPFD_CLOEXEC, 0)), bytes_(other.bytes_) {
  map();
}

// Without MAP_NORESERVE the system would set memory aside as if all pages were to be written to.
void MappedFile::map() {
  const int access = PROT_READ | PROT_WRITE, kind = MAP_PRIVATE | MAP_NORESERVE;
  data_ = bytes_ == 0 ? MAP_FAILED : mmap(nullptr, bytes_, access, kind, file_, 0);
  if (data_ != MAP_FAILED) return;
  if (file_ >= 0) close(file_);
  throw Error(path_ + (bytes_ == 0 ? " is empty or no file" : " cannot be mapped into memory"));
}

void MappedFile::forget(size_t begin) const {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t first = (begin + page - 1) / page * page;
  if (first < bytes_) madvise(static_cast<char*>(data_) + first, bytes_ - first, MADV_DONTNEED);
}

MappedFile::~MappedFile() {
  munmap(data_, bytes_);
  close(file_);
}

}  // namespace edgelm
