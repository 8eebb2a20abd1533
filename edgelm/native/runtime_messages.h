// What LiteRT writes to stderr, kept from the terminal and asked for when something failed.
#ifndef EDGELM_RUNTIME_MESSAGES_H_
#define EDGELM_RUNTIME_MESSAGES_H_

#include <string>

namespace edgelm {

// While it lives, stderr leads into a pipe; what does not fit is dropped.
class RuntimeMessages {
 public:
  RuntimeMessages();
  ~RuntimeMessages();
  RuntimeMessages(const RuntimeMessages&) = delete;
  RuntimeMessages& operator=(const RuntimeMessages&) = delete;

  // The last line that LiteRT marked as an error, without the mark; empty when there is none.
  std::string last_error();

 private:
  int stderr_ = -1, reading_end_ = -1;
};

}  // namespace edgelm

#endif  // EDGELM_RUNTIME_MESSAGES_H_
