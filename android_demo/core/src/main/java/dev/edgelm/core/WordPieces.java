package dev.edgelm.core;

import java.util.BitSet;

/** Which tokens a word can start with, go on with, and end before; rows without a token are none of them. */
final class WordPieces {
    private final BitSet starts = new BitSet();
    private final BitSet continues = new BitSet();
    private final BitSet ends = new BitSet();

    WordPieces(Tokenizer tokenizer, int vocabSize) {
        for (int id = 0; id < Math.min(tokenizer.vocabSize(), vocabSize); id++) {
            boolean begins = tokenizer.isWordStart(id);
            boolean special = tokenizer.isSpecial(id) || id == tokenizer.boundaryId();
            starts.set(id, begins && !special);
            continues.set(id, !begins && !special && goesOn(tokenizer.pieceBytes(id)));
            ends.set(id, !continues.get(id));
        }
    }

    /** The probabilities of tokens that start words, 0 for the others. */
    void keepStarts(double[] mass, double[] target) {
        keep(starts, mass, target);
    }

    /** The probabilities of tokens that continue words, 0 for the others. */
    void keepContinuations(double[] mass, double[] target) {
        keep(continues, mass, target);
    }

    /** The probability that a word ends. */
    double endMass(double[] mass) {
        double sum = 0;
        for (int id = ends.nextSetBit(0); id >= 0; id = ends.nextSetBit(id + 1)) {
            sum += mass[id];
        }
        return sum;
    }

    private static void keep(BitSet kept, double[] mass, double[] target) {
        for (int id = 0; id < target.length; id++) {
            target[id] = kept.get(id) ? mass[id] : 0;
        }
    }

    /** Beyond ASCII, a letter or digit, or one of {@code ' -}. */
    private static boolean goesOn(byte[] piece) {
        if (piece.length == 0) {
            return false;
        }
        int first = piece[0];
        return first < 0
                || first >= '0' && first <= '9'
                || first >= 'A' && first <= 'Z'
                || first >= 'a' && first <= 'z'
                || first == '\''
                || first == '-';
    }
}
