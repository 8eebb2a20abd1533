package dev.edgelm.core;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/** Bytes that grow: the UTF-8 text of a JSON string or of a piece, without a new array each time. */
final class ByteList {
    private byte[] bytes = new byte[256];
    private int size;

    /** The array behind the list; its first {@link #size()} bytes count, until the next {@code add}. */
    byte[] array() {
        return bytes;
    }

    int size() {
        return size;
    }

    void clear() {
        size = 0;
    }

    void add(int value) {
        if (size == bytes.length) {
            bytes = Arrays.copyOf(bytes, 2 * size);
        }
        bytes[size++] = (byte) value;
    }

    void add(byte[] source, int start, int end) {
        int wanted = size + end - start;
        if (wanted > bytes.length) {
            bytes = Arrays.copyOf(bytes, Math.max(wanted, 2 * size));
        }
        System.arraycopy(source, start, bytes, size, end - start);
        size = wanted;
    }

    /** Adds a code point as UTF-8. */
    void addCodePoint(int point) {
        if (point < 0x80) {
            add(point);
        } else if (point < 0x800) {
            add(0xC0 | point >> 6);
            add(0x80 | point & 0x3F);
        } else if (point < 0x10000) {
            add(0xE0 | point >> 12);
            add(0x80 | point >> 6 & 0x3F);
            add(0x80 | point & 0x3F);
        } else {
            add(0xF0 | point >> 18);
            add(0x80 | point >> 12 & 0x3F);
            add(0x80 | point >> 6 & 0x3F);
            add(0x80 | point & 0x3F);
        }
    }

    /** Adds a text without lone surrogates as UTF-8. */
    void addText(CharSequence text, int start, int end) {
        for (int i = start; i < end; ) {
            int point = Character.codePointAt(text, i);
            addCodePoint(point);
            i += Character.charCount(point);
        }
    }

    byte[] toArray() {
        return Arrays.copyOf(bytes, size);
    }

    @Override
    public String toString() {
        return new String(bytes, 0, size, StandardCharsets.UTF_8);
    }
}
