#include "weight_cache.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>

#include "litert_model.h"
#include "output_file.h"

namespace edgelm {
namespace {

std::string content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

struct stat status_of(const std::string& path) {
  struct stat status;
  if (stat(path.c_str(), &status) != 0) throw Error(path + " cannot be read: " + std::strerror(errno));
  return status;
}

// The file that LiteRT was loaded from, or the APK it is stored in: another LiteRT may pack in another way.
std::string library_note() {
  Dl_info library;
  void* const function = dlsym(RTLD_DEFAULT, "LiteRtCreateEnvironment");
  if (!function || !dladdr(function, &library) || !library.dli_fname) return "unknown";
  const std::string path = library.dli_fname;
  struct stat status;
  if (stat(path.substr(0, path.find('!')).c_str(), &status) != 0) return "unknown";
  return "bytes " + std::to_string(status.st_size) + ", modified " + std::to_string(status.st_mtim.tv_sec);
}

}  // namespace

WeightCache::WeightCache(const std::string& path, const std::string& model) : path_(path), note_(path + ".model"), model_(model) {
  const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);  // XNNPACK would go on without a cache, silently
  if (file < 0) throw Error("the weight cache " + path + " cannot be written: " + std::strerror(errno));
  close(file);
  if (content(note_) == note_text()) return;
  std::remove(note_.c_str());
  std::remove(path.c_str());
}

void WeightCache::keep() const {
  const std::string text = note_text();
  if (content(note_) == text) return;
  OutputFile note(note_);
  note.write(text.data(), text.size());
  note.commit();
}

bool WeightCache::is_kept() const {
  try {
    return content(note_) == note_text();
  } catch (const Error&) {  // one of them is gone
    return false;
  }
}

// No program can set a file's change time (ctime), so a replaced model is noticed whatever its size and dates.
std::string WeightCache::note_text() const {
  const struct stat model = status_of(model_), cache = status_of(path_);
  std::ostringstream text;
  text << "edgelm weight cache, LiteRT " << library_note() << "\nmodel: device " << model.st_dev << ", inode " << model.st_ino
       << ", bytes " << model.st_size << ", modified " << model.st_mtim.tv_sec << "." << model.st_mtim.tv_nsec << ", changed "
       << model.st_ctim.tv_sec << "." << model.st_ctim.tv_nsec << "\ncache: bytes " << cache.st_size << "\n";
  return text.str();
}

}  // namespace edgelm
