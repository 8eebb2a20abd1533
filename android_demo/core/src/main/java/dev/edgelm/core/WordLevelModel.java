package dev.edgelm.core;

/** Each part is one token; those that are not in the vocabulary are the unknown token. */
final class WordLevelModel implements TokenModel {
    private final Vocabulary vocabulary;
    private final int unknown;

    WordLevelModel(Vocabulary vocabulary, int unknown) {
        this.vocabulary = vocabulary;
        this.unknown = unknown;
    }

    @Override
    public void encode(CharSequence text, int start, int end, IntList ids) {
        int id = vocabulary.find(text, start, end);
        if (id < 0 && unknown < 0) {
            throw new EdgeLmException("the tokenizer has no token for " + text.subSequence(start, end) + " and no unknown token");
        }
        ids.add(id < 0 ? unknown : id);
    }
}
