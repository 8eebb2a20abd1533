// What each token of @MODEL_NAME@ writes, as UTF-8 bytes; a token of 0 bytes ends a text. Written by edgelm package.
#ifndef VOCABULARY_H_
#define VOCABULARY_H_

struct Piece {
  unsigned bytes;
  const char* text;
};

constexpr int kTokens = @TOKEN_COUNT@;
constexpr int kUnknown = @UNKNOWN@;  // -1: every text has tokens

const Piece kPieces[kTokens] = {
@PIECES@
};

#endif  // VOCABULARY_H_
