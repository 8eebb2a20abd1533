// `cpp_app MODEL PROMPT_IDS...` continues a prompt greedily and tries the public API on the way; prints the continuation's ids.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <vector>

#include "edgelm_lm.h"

namespace {

constexpr int kTokens = 100;

std::vector<int> greedy(edgelm::Session& session, int count) {
  std::vector<int> ids;
  for (int i = 0; i < count; ++i) {
    ids.push_back(session.logits().best());
    session.step(ids.back());
  }
  return ids;
}

void expect(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "not so: %s\n", what);
  std::exit(1);
}

void run(const char* model, const std::vector<int>& prompt) {
  const auto session = edgelm::open_session(model);
  expect(session->position() == 0 && session->logits().size() == 0 && session->logits().best() == -1, "a new session is empty");
  session->prefill(prompt);
  const edgelm::Logits logits = session->logits();
  const std::vector<float> first(logits.begin(), logits.end());
  expect(static_cast<int>(first.size()) == session->vocab_size(), "one score for each token of the vocabulary");
  const std::vector<int> ids = greedy(*session, kTokens);

  session->reset();
  expect(session->position() == 0, "a reset session is empty");
  session->prefill(prompt);
  expect(first == std::vector<float>(session->logits().begin(), session->logits().end()), "a reset session gives the same logits");
  const std::vector<int> half = greedy(*session, kTokens / 2);
  const edgelm::Snapshot snapshot = session->snapshot();
  const std::vector<int> rest = greedy(*session, kTokens / 2);
  session->reset();
  session->step(prompt.front());
  session->restore(snapshot);
  expect(session->position() == snapshot.position, "a restored session is where the snapshot was taken");
  session->step(rest.front());
  expect(session->logits().best() == rest.at(1), "a restored session goes on as before");

  try {
    session->step(session->vocab_size());
    expect(false, "an id outside of the vocabulary is an Error");
  } catch (const edgelm::Error&) {
    expect(session->position() == snapshot.position + 1, "a refused token changes nothing");
  }
  for (const int id : ids) std::printf("%d ", id);
}

}  // namespace

int main(int count, char** words) {
  std::vector<int> prompt;
  for (int i = 2; i < count; ++i) prompt.push_back(std::atoi(words[i]));
  try {
    run(words[1], prompt);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
  return 0;
}
