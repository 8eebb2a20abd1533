// Continues a text with @MODEL_NAME@ (recipe @RECIPE@), the likeliest token each time. Written by edgelm package.
//
//   @NAME@_example @MODEL_FILE@ [TOKENS [CACHE]]
//
// CACHE is a file for packed weights: made by the first start, it makes the later ones quick and the process small.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <vector>

#include "edgelm_lm.h"
#include "vocabulary.h"

namespace {

// The prompt @PROMPT_COMMENT@, as Python's tokenizer reads it; a tokenizer for C++ is the app's business.
const std::vector<int> kPrompt = {@PROMPT_IDS@};

// The likeliest token that stands for text.
int best_writable(const edgelm::Logits& logits) {
  int best = -1;
  for (int token = 0; token < kTokens; ++token) {
    if (token != kUnknown && (best < 0 || logits[token] > logits[best])) best = token;
  }
  return best;
}

void write_continuation(edgelm::Session& session, int tokens) {
  session.prefill(kPrompt);
  for (int i = 0; i < tokens; ++i) {
    const int token = best_writable(session.logits());
    if (kPieces[token].bytes == 0) return;  // the end of a text, or of a turn
    std::fwrite(kPieces[token].text, 1, kPieces[token].bytes, stdout);
    if (session.max_positions() != 0 && session.position() == session.max_positions()) return;
    session.step(token);
  }
}

}  // namespace

int main(int count, char** words) {
  if (count < 2) {
    std::fprintf(stderr, "usage: %s @MODEL_FILE@ [TOKENS [CACHE]]\n", words[0]);
    return 2;
  }
  try {
    edgelm::Options options;
    if (count > 3) options.weight_cache = words[3];
    write_continuation(*edgelm::open_session(words[1], options), count > 2 ? std::atoi(words[2]) : @TOKENS@);
    std::puts("");
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
