#include "runtime_messages.h"

#include <fcntl.h>
#include <unistd.h>

#include <sstream>

namespace edgelm {

RuntimeMessages::RuntimeMessages() {
  int ends[2];
  if (pipe(ends) != 0) return;
  for (const int end : ends) fcntl(end, F_SETFL, O_NONBLOCK);
  reading_end_ = ends[0];
  stderr_ = dup(STDERR_FILENO);
  dup2(ends[1], STDERR_FILENO);
  close(ends[1]);
}

RuntimeMessages::~RuntimeMessages() {
  if (reading_end_ < 0) return;
  dup2(stderr_, STDERR_FILENO);
  close(stderr_);
  close(reading_end_);
}

std::string RuntimeMessages::last_error() {
  std::string text;
  char chunk[4096];
  for (ssize_t count; (count = read(reading_end_, chunk, sizeof chunk)) > 0;) text.append(chunk, static_cast<size_t>(count));
  const std::string mark = "ERROR: ";
  std::string found;
  std::stringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind(mark, 0) == 0) found = line.substr(mark.size());
  }
  return found;
}

}  // namespace edgelm
