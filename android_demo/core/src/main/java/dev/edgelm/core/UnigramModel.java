package dev.edgelm.core;

import java.util.Arrays;

/**
 * The unigram model of sentencepiece (Kudo 2018): the cut of a part into pieces with the highest sum of scores, by Viterbi's
 * algorithm over its UTF-8 bytes.
 *
 * <p>A character without a piece costs the lowest score less {@value #UNKNOWN_PENALTY}; unknown characters in a row are one token.
 */
final class UnigramModel implements TokenModel {
    private static final double UNKNOWN_PENALTY = 10.0;

    private final Vocabulary vocabulary;
    private final double[] scores;
    private final double unknownScore;
    private final int unknown;
    private final BytePieces bytePieces; // null to do without
    private final int longest;
    private final ByteList bytes = new ByteList();
    private final IntList backwards = new IntList(); // ends of the pieces of the best path, last first
    private double[] best = new double[64]; // end -> score of the best path to it
    private int[] from = new int[64]; // end -> where its last piece begins; -1 for an end no path reaches
    private boolean[] known = new boolean[64]; // end -> its last piece is in the vocabulary

    /**
     * A model.
     *
     * @param scores id to logarithm of the probability
     * @param unknown id of the unknown token; -1 for none
     * @param bytePieces pieces of single bytes, or null
     */
    UnigramModel(Vocabulary vocabulary, double[] scores, int unknown, BytePieces bytePieces) {
        this.vocabulary = vocabulary;
        this.scores = scores;
        this.unknown = unknown;
        this.bytePieces = bytePieces;
        this.longest = vocabulary.longest();
        double lowest = Double.POSITIVE_INFINITY;
        for (double score : scores) {
            lowest = Math.min(lowest, score);
        }
        this.unknownScore = lowest - UNKNOWN_PENALTY;
    }

    @Override
    public void encode(CharSequence text, int start, int end, IntList ids) {
        bytes.clear();
        bytes.addText(text, start, end);
        int size = bytes.size();
        if (size >= best.length) {
            best = new double[2 * size];
            from = new int[2 * size];
            known = new boolean[2 * size];
        }
        Arrays.fill(from, 0, size + 1, -1);
        best[0] = 0;
        for (int at = 0; at < size; at += width(bytes.array()[at])) {
            extend(at, size);
        }
        backwards.clear();
        for (int at = size; at > 0; at = from[at]) {
            backwards.add(at);
        }
        write(ids);
    }

    /** Tries every piece that begins at a place. */
    private void extend(int start, int size) {
        byte[] text = bytes.array();
        int single = start + width(text[start]);
        boolean found = false;
        for (int end = start + 1; end <= Math.min(size, start + longest); end++) {
            boolean whole = end == size || (text[end] & 0xC0) != 0x80;
            int id = whole ? vocabulary.find(text, start, end) : -1;
            if (id >= 0) {
                relax(start, end, best[start] + scores[id], id != unknown);
                found |= end == single;
            }
        }
        if (!found) {
            relax(start, single, best[start] + unknownScore, false);
        }
    }

    private void relax(int start, int end, double score, boolean piece) {
        if (from[end] < 0 || score > best[end]) {
            best[end] = score;
            from[end] = start;
            known[end] = piece;
        }
    }

    private void write(IntList ids) {
        int start = 0;
        for (int i = backwards.size() - 1; i >= 0; i--) {
            int end = backwards.get(i);
            boolean fuse = !known[end] && i > 0 && !known[backwards.get(i - 1)];
            if (fuse) {
                continue;
            }
            int id = vocabulary.find(bytes.array(), start, end);
            if (id >= 0) {
                ids.add(id);
            } else if (bytePieces == null || !bytePieces.encode(bytes.array(), start, end, ids)) {
                ids.add(unknownId());
            }
            start = end;
        }
    }

    private int unknownId() {
        if (unknown < 0) {
            throw new EdgeLmException("the tokenizer has no piece for a character of " + bytes + " and no unknown token");
        }
        return unknown;
    }

    private static int width(byte first) {
        return (first & 0x80) == 0 ? 1 : (first & 0xE0) == 0xC0 ? 2 : (first & 0xF0) == 0xE0 ? 3 : 4;
    }
}
