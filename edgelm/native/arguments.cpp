#include "arguments.h"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <sstream>

#include "litert_model.h"

namespace edgelm {
namespace {

long parse(const std::string& name, const std::string& text) {
  char* end = nullptr;
  errno = 0;
  const long value = std::strtol(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || errno != 0) throw Error(name + " " + text + " is no whole number");
  return value;
}

}  // namespace

Arguments::Arguments(int count, char** words, const std::vector<std::string>& allowed) {
  for (int i = 0; i < count; ++i) {
    const std::string word = words[i];
    if (word.rfind("--", 0) != 0) {
      if (!model_.empty()) throw Error("one model at a time: " + word + " comes after " + model_);
      model_ = word;
      continue;
    }
    if (std::find(allowed.begin(), allowed.end(), word) == allowed.end()) throw Error("option " + word + " is not known");
    if (++i == count) throw Error("option " + word + " needs a value");
    values_[word] = words[i];
  }
}

const std::string& Arguments::model() const {
  if (model_.empty()) throw Error("no model was given");
  return model_;
}

const std::string& Arguments::text(const std::string& name) const {
  const auto found = values_.find(name);
  if (found == values_.end()) throw Error("option " + name + " is missing");
  return found->second;
}

std::string Arguments::text(const std::string& name, const std::string& otherwise) const {
  return values_.count(name) ? values_.at(name) : otherwise;
}

long Arguments::number(const std::string& name, long otherwise, long least) const {
  if (!values_.count(name)) return otherwise;
  const long value = parse(name, values_.at(name));
  if (value < least || value > INT_MAX) {
    throw Error(name + " " + values_.at(name) + ": a whole number of at least " + std::to_string(least));
  }
  return value;
}

std::vector<int> Arguments::ids(const std::string& name) const {
  std::vector<int> ids;
  std::stringstream list(text(name));
  for (std::string item; std::getline(list, item, ',');) {
    const long id = parse(name, item);
    if (id < INT_MIN || id > INT_MAX) throw Error("token id " + item + " is outside of the vocabulary");
    ids.push_back(static_cast<int>(id));
  }
  if (ids.empty()) throw Error(name + " names no token");
  return ids;
}

}  // namespace edgelm
