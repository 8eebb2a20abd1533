#include "output_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "litert_model.h"

namespace edgelm {

OutputFile::OutputFile(const std::string& path) : path_(path), temporary_(path + ".tmp" + std::to_string(getpid())) {
  struct stat status;
  if (stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) throw Error(path + " cannot be written: it is no plain file");
  file_ = std::fopen(temporary_.c_str(), "wb");
  if (!file_) fail("cannot be written");
}

OutputFile::~OutputFile() {
  if (!file_) return;
  std::fclose(file_);
  std::remove(temporary_.c_str());
}

void OutputFile::write(const void* data, size_t bytes) {
  if (std::fwrite(data, 1, bytes, file_) != bytes) fail("cannot be written");
}

void OutputFile::commit() {
  if (std::fflush(file_) != 0) fail("cannot be written");
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) fail("cannot be replaced");
  std::fclose(file_);
  file_ = nullptr;
}

void OutputFile::fail(const char* doing) const { throw Error(path_ + " " + doing + ": " + std::strerror(errno)); }

}  // namespace edgelm
