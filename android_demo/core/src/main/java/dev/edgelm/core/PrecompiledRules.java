package dev.edgelm.core;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.Base64;

/**
 * The compiled normalization rules of a sentencepiece model ({@code precompiled_charsmap}), applied as the {@code tokenizers} library
 * does: to a grapheme as a whole where it has at most five UTF-8 bytes, otherwise to its characters.
 *
 * <p>The data is the size of a double-array trie (Darts-clone), the trie, and the replacements, each ended by a zero byte.
 */
final class PrecompiledRules implements Normalizer {
    private static final int LONGEST_CLUSTER = 5;

    private final int[] trie;
    private final byte[] replacements;
    private final ByteList scratch = new ByteList();

    PrecompiledRules(String base64) {
        ByteBuffer data;
        try {
            data = ByteBuffer.wrap(Base64.getDecoder().decode(base64)).order(ByteOrder.LITTLE_ENDIAN);
        } catch (IllegalArgumentException error) {
            throw new EdgeLmException("tokenizer.json: its precompiled rules are no base64", "", "convert the model again", error);
        }
        int size = data.remaining() < 4 ? -1 : data.getInt();
        if (size < 4 || size % 4 != 0 || size > data.remaining()) {
            throw new EdgeLmException("tokenizer.json: its precompiled rules are damaged", "a sentencepiece charsmap");
        }
        trie = new int[size / 4];
        data.asIntBuffer().get(trie);
        data.position(data.position() + size);
        replacements = new byte[data.remaining()];
        data.get(replacements);
    }

    @Override
    public String apply(String text) {
        StringBuilder result = new StringBuilder(text.length());
        for (int start = 0, end; start < text.length(); start = end) {
            end = Graphemes.end(text, start);
            if (!replace(text, start, end, LONGEST_CLUSTER, result)) {
                replaceEach(text, start, end, result);
            }
        }
        return result.toString();
    }

    private void replaceEach(String text, int start, int end, StringBuilder result) {
        for (int at = start, next; at < end; at = next) {
            next = text.offsetByCodePoints(at, 1);
            if (!replace(text, at, next, Integer.MAX_VALUE, result)) {
                result.append(text, at, next);
            }
        }
    }

    /** Appends what a cluster becomes; false where no rule fits or it has more than {@code longest} bytes. */
    private boolean replace(String text, int start, int end, int longest, StringBuilder result) {
        scratch.clear();
        scratch.addText(text, start, end);
        int from = scratch.size() > longest ? -1 : find();
        if (from < 0 || from > replacements.length) {
            return false;
        }
        int to = from;
        while (to < replacements.length && replacements[to] != 0) {
            to++;
        }
        result.append(new String(replacements, from, to - from, StandardCharsets.UTF_8));
        return true;
    }

    /** Where the replacement of the shortest key that {@code scratch} begins with stands; -1 without one. */
    private int find() {
        int node = offset(trie[0]);
        for (int i = 0; i < scratch.size(); i++) {
            int label = scratch.array()[i] & 0xFF;
            node ^= label;
            if (label == 0 || node < 0 || node >= trie.length || (trie[node] & 0x800000FF) != label) {
                return -1;
            }
            int unit = trie[node];
            node ^= offset(unit);
            if ((unit >> 8 & 1) == 1) {
                return node < 0 || node >= trie.length ? -1 : trie[node] & 0x7FFFFFFF;
            }
        }
        return -1;
    }

    private static int offset(int unit) {
        return unit >>> 10 << ((unit & 1 << 9) >> 6);
    }
}
