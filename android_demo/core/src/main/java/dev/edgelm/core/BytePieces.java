package dev.edgelm.core;

import java.util.Locale;

/** The pieces {@code <0x00>} to {@code <0xFF>} that stand for single bytes of characters without a piece. */
final class BytePieces {
    private final int[] ids = new int[256]; // -1 for a byte without a piece

    BytePieces(Vocabulary vocabulary) {
        for (int value = 0; value < 256; value++) {
            String piece = String.format(Locale.ROOT, "<0x%02X>", value);
            ids[value] = vocabulary.find(piece, 0, piece.length());
        }
    }

    /** Adds the pieces of some bytes; false, and none of them, where one has no piece. */
    boolean encode(byte[] bytes, int start, int end, IntList target) {
        for (int i = start; i < end; i++) {
            if (ids[bytes[i] & 0xFF] < 0) {
                return false;
            }
        }
        for (int i = start; i < end; i++) {
            target.add(ids[bytes[i] & 0xFF]);
        }
        return true;
    }
}
