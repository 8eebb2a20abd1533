package dev.edgelm.core;

import java.util.Arrays;

/** The merges of a BPE model: a hash table from a pair of ids to its rank, 24 bytes a merge. */
final class Merges {
    private long[] keys = new long[4096]; // left << 32 | right, + 1; 0 where empty
    private int[] ranks = new int[4096];
    private int[] results = new int[2048]; // rank -> id of the joined piece
    private int count;

    int count() {
        return count;
    }

    /** Adds the next merge; of a pair that comes twice the later rank counts. */
    void add(int left, int right, int joined) {
        if (2 * (count + 1) > keys.length) {
            grow();
        }
        if (count == results.length) {
            results = Arrays.copyOf(results, 2 * count);
        }
        int place = place(left, right);
        keys[place] = key(left, right);
        ranks[place] = count;
        results[count++] = joined;
    }

    /** The rank of a pair, 0 for the first merge; -1 for a pair that is not merged. */
    int rank(int left, int right) {
        int place = place(left, right);
        return keys[place] == 0 ? -1 : ranks[place];
    }

    /** The piece that the merge of a rank gives. */
    int result(int rank) {
        return results[rank];
    }

    private int place(int left, int right) {
        long key = key(left, right);
        long hash = key * 0x9E3779B97F4A7C15L;
        int mask = keys.length - 1;
        int place = (int) (hash >>> 33) & mask;
        while (keys[place] != 0 && keys[place] != key) {
            place = place + 1 & mask;
        }
        return place;
    }

    private static long key(int left, int right) {
        return ((long) left << 32 | right) + 1;
    }

    private void grow() {
        long[] oldKeys = keys;
        int[] oldRanks = ranks;
        keys = new long[2 * oldKeys.length];
        ranks = new int[keys.length];
        for (int i = 0; i < oldKeys.length; i++) {
            if (oldKeys[i] != 0) {
                int place = place((int) (oldKeys[i] - 1 >>> 32), (int) (oldKeys[i] - 1));
                keys[place] = oldKeys[i];
                ranks[place] = oldRanks[i];
            }
        }
    }
}
