package dev.edgelm.core;

import java.util.Arrays;

/**
 * Byte pair encoding (Sennrich et al. 2016): the characters of a part, joined pair by pair in the order of the merges.
 *
 * <p>Pairs wait in a binary heap by rank, then place, so that a part of n characters takes n log n steps; entries whose pair has
 * changed meanwhile are dropped when they come up, as in the {@code tokenizers} library. Nothing is allocated once the arrays have
 * grown to the longest part.
 */
final class BpeModel implements TokenModel {
    /** What a tokenizer.json says of a BPE model besides its tables. */
    static final class Rules {
        final int unknown;
        final boolean fuseUnknown;
        final BytePieces bytePieces;
        final boolean wholeFirst;

        /**
         * Rules.
         *
         * @param unknown the token of characters without a piece; -1 to leave them out
         * @param fuseUnknown unknown characters in a row are one token
         * @param bytePieces the pieces of single bytes for characters without a piece; null to do without
         * @param wholeFirst a part that is a token as a whole is that token
         */
        Rules(int unknown, boolean fuseUnknown, BytePieces bytePieces, boolean wholeFirst) {
            this.unknown = unknown;
            this.fuseUnknown = fuseUnknown;
            this.bytePieces = bytePieces;
            this.wholeFirst = wholeFirst;
        }
    }

    private static final int CACHED = 512; // characters whose ids are looked up once: all of byte-level BPE's are below

    private final Vocabulary vocabulary;
    private final Merges merges;
    private final Rules rules;
    private final int[] idOfCharacter = new int[CACHED];
    private final ByteList bytes = new ByteList();
    private final IntList symbols = new IntList();
    private int[] next = new int[64]; // place of the symbol behind; -1 at the end, -2 for one that was joined away
    private int[] previous = new int[64];
    private long[] heap = new long[128]; // rank << 32 | place of the left symbol
    private int heapSize;

    BpeModel(Vocabulary vocabulary, Merges merges, Rules rules) {
        this.vocabulary = vocabulary;
        this.merges = merges;
        this.rules = rules;
        for (int point = 0; point < CACHED; point++) {
            bytes.clear();
            bytes.addCodePoint(point);
            idOfCharacter[point] = vocabulary.find(bytes.array(), 0, bytes.size());
        }
    }

    @Override
    public void encode(CharSequence text, int start, int end, IntList ids) {
        int whole = rules.wholeFirst ? vocabulary.find(text, start, end) : -1;
        if (whole >= 0) {
            ids.add(whole);
            return;
        }
        symbols.clear();
        addSymbols(text, start, end);
        merge();
        for (int i = 0; i >= 0 && i < symbols.size(); i = next[i]) {
            ids.add(symbols.get(i));
        }
    }

    /** The ids of the characters; a run of unknown ones is written when the next known one comes, behind byte pieces. */
    private void addSymbols(CharSequence text, int start, int end) {
        boolean unknown = false;
        for (int i = start; i < end; ) {
            int point = Character.codePointAt(text, i);
            i += Character.charCount(point);
            int id = find(point);
            if (id >= 0) {
                if (unknown) {
                    symbols.add(rules.unknown);
                }
                symbols.add(id);
                unknown = false;
            } else if (rules.bytePieces == null || !rules.bytePieces.encode(bytes.array(), 0, bytes.size(), symbols)) {
                if (unknown && !rules.fuseUnknown) {
                    symbols.add(rules.unknown);
                }
                unknown = rules.unknown >= 0;
            }
        }
        if (unknown) {
            symbols.add(rules.unknown);
        }
    }

    /** The id of a character, whose UTF-8 is left in `bytes` where it has none. */
    private int find(int point) {
        if (point < CACHED && idOfCharacter[point] >= 0) {
            return idOfCharacter[point];
        }
        bytes.clear();
        bytes.addCodePoint(point);
        return vocabulary.find(bytes.array(), 0, bytes.size());
    }

    private void merge() {
        int count = symbols.size();
        if (count > next.length) {
            next = new int[2 * count];
            previous = new int[2 * count];
        }
        for (int i = 0; i < count; i++) {
            next[i] = i + 1 < count ? i + 1 : -1;
            previous[i] = i - 1;
        }
        heapSize = 0;
        for (int i = 0; i + 1 < count; i++) {
            offer(i);
        }
        while (heapSize > 0) {
            long top = pop();
            int rank = (int) (top >>> 32);
            int place = (int) top;
            if (next[place] >= 0 && stillJoins(place, rank)) {
                join(place, merges.result(rank));
            }
        }
    }

    /** Whether the pair at a place still gives what it gave when it was put into the heap. */
    private boolean stillJoins(int place, int rank) {
        int now = merges.rank(symbols.get(place), symbols.get(next[place]));
        return now >= 0 && merges.result(now) == merges.result(rank);
    }

    private void join(int place, int joined) {
        int gone = next[place];
        symbols.array()[place] = joined;
        next[place] = next[gone];
        if (next[gone] >= 0) {
            previous[next[gone]] = place;
        }
        next[gone] = -2;
        if (previous[place] >= 0) {
            offer(previous[place]);
        }
        if (next[place] >= 0) {
            offer(place);
        }
    }

    /** Puts the pair that begins at a place into the heap where it is a merge. */
    private void offer(int place) {
        int rank = merges.rank(symbols.get(place), symbols.get(next[place]));
        if (rank < 0) {
            return;
        }
        if (heapSize == heap.length) {
            heap = Arrays.copyOf(heap, 2 * heapSize);
        }
        long entry = (long) rank << 32 | place;
        int at = heapSize++;
        for (int parent = (at - 1) / 2; at > 0 && heap[parent] > entry; parent = (at - 1) / 2) {
            heap[at] = heap[parent];
            at = parent;
        }
        heap[at] = entry;
    }

    private long pop() {
        long top = heap[0];
        long last = heap[--heapSize];
        int at = 0;
        while (2 * at + 1 < heapSize) {
            int child = 2 * at + 1;
            if (child + 1 < heapSize && heap[child + 1] < heap[child]) {
                child++;
            }
            if (heap[child] >= last) {
                break;
            }
            heap[at] = heap[child];
            at = child;
        }
        heap[at] = last;
        return top;
    }
}
