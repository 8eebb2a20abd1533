// The runner's command line: `VERB MODEL --name value ...`.
#ifndef EDGELM_ARGUMENTS_H_
#define EDGELM_ARGUMENTS_H_

#include <map>
#include <string>
#include <vector>

namespace edgelm {

// Options by name, each with one value. A name that is not in `allowed`, a missing value or a second positional word is an Error.
class Arguments {
 public:
  Arguments(int count, char** words, const std::vector<std::string>& allowed);

  const std::string& model() const;                        // the positional word; throws Error when there is none
  const std::string& text(const std::string& name) const;  // throws Error when it was not given
  std::string text(const std::string& name, const std::string& otherwise) const;
  long number(const std::string& name, long otherwise, long least) const;  // throws Error below `least`
  std::vector<int> ids(const std::string& name) const;                     // "1,2,3"

 private:
  std::string model_;
  std::map<std::string, std::string> values_;
};

}  // namespace edgelm

#endif  // EDGELM_ARGUMENTS_H_
