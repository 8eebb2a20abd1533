package dev.edgelm.core;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;

/**
 * Tokens and their ids: one array of UTF-8 bytes and a hash table, 8 to 20 bytes a token instead of a {@code String} and a map entry.
 */
final class Vocabulary {
    /** Largest id of a token: the largest published vocabularies have 256 thousand. */
    static final int LARGEST_ID = (1 << 20) - 1;

    private final ByteList text = new ByteList();
    private final ByteList scratch = new ByteList();
    private int[] starts = new int[1024]; // id -> where its token begins in `text`; -1 without one
    private int[] lengths = new int[1024];
    private int[] table = new int[4096]; // hash -> id + 1; 0 where empty
    private final Map<String, Integer> outside = new HashMap<>(); // added tokens that are not in the table
    private int used; // places of the table
    private int size; // largest id + 1

    Vocabulary() {
        Arrays.fill(starts, -1);
    }

    /** Largest id + 1. */
    int size() {
        return size;
    }

    /**
     * Adds a token; one that is there already gets the new id.
     *
     * @param token UTF-8
     * @throws EdgeLmException the id is no row of an embedding
     */
    void add(ByteList token, double id) {
        int row = store(token, id);
        int place = place(token.array(), 0, token.size());
        used += table[place] == 0 ? 1 : 0;
        table[place] = row + 1;
    }

    /**
     * Adds a token that the model itself does not know: {@link #find} does not find it, {@link #findAny} does.
     *
     * @throws EdgeLmException the id is no row of an embedding
     */
    void addOutside(String token, int id) {
        scratch.clear();
        scratch.addText(token, 0, token.length());
        if (find(scratch.array(), 0, scratch.size()) != id) {
            store(scratch, id);
            outside.put(token, id);
        }
    }

    /** The id of a token; -1 where there is none. */
    int find(byte[] bytes, int start, int end) {
        return table[place(bytes, start, end)] - 1;
    }

    /** The id of a token; -1 where there is none. */
    int find(CharSequence token, int start, int end) {
        scratch.clear();
        scratch.addText(token, start, end);
        return find(scratch.array(), 0, scratch.size());
    }

    /** The id of a token, added ones included; -1 where there is none. */
    int findAny(String token) {
        Integer id = outside.get(token);
        return id == null ? find(token, 0, token.length()) : id;
    }

    /** The id of the first of some tokens that is there, added ones included; -1 where none is. */
    int findFirst(String... tokens) {
        for (String token : tokens) {
            int id = findAny(token);
            if (id >= 0) {
                return id;
            }
        }
        return -1;
    }

    /** Bytes of the longest token. */
    int longest() {
        int longest = 0;
        for (int id = 0; id < size; id++) {
            longest = Math.max(longest, starts[id] < 0 ? 0 : lengths[id]);
        }
        return longest;
    }

    /** A token as the vocabulary writes it; empty for an id without one. */
    String token(int id) {
        if (id < 0 || id >= size || starts[id] < 0) {
            return "";
        }
        return new String(text.array(), starts[id], lengths[id], StandardCharsets.UTF_8);
    }

    private int store(ByteList token, double id) {
        if (id != (int) id || id < 0 || id > LARGEST_ID) {
            throw new EdgeLmException("tokenizer.json: the id " + id + " is no row of an embedding", "0 to " + LARGEST_ID);
        }
        int row = (int) id;
        reserve(row);
        starts[row] = text.size();
        lengths[row] = token.size();
        text.add(token.array(), 0, token.size());
        size = Math.max(size, row + 1);
        return row;
    }

    private void reserve(int row) {
        if (row >= starts.length) {
            int old = starts.length;
            int capacity = Math.max(row + 1, 2 * old);
            starts = Arrays.copyOf(starts, capacity);
            lengths = Arrays.copyOf(lengths, capacity);
            Arrays.fill(starts, old, capacity, -1);
        }
        if (2 * (used + 1) > table.length) {
            int[] full = table;
            table = new int[2 * full.length];
            for (int entry : full) {
                if (entry > 0) {
                    table[place(text.array(), starts[entry - 1], starts[entry - 1] + lengths[entry - 1])] = entry;
                }
            }
        }
    }

    /** Where a token is in the table, or the empty place it would have. */
    private int place(byte[] bytes, int start, int end) {
        int hash = 0x811C9DC5; // FNV-1a
        for (int i = start; i < end; i++) {
            hash = (hash ^ bytes[i] & 0xFF) * 0x01000193;
        }
        int mask = table.length - 1;
        int place = (hash ^ hash >>> 15) & mask;
        while (table[place] != 0 && !holds(table[place] - 1, bytes, start, end)) {
            place = place + 1 & mask;
        }
        return place;
    }

    private boolean holds(int id, byte[] bytes, int start, int end) {
        if (lengths[id] != end - start) {
            return false;
        }
        byte[] own = text.array();
        for (int i = 0; i < lengths[id]; i++) {
            if (own[starts[id] + i] != bytes[start + i]) {
                return false;
            }
        }
        return true;
    }
}
