package dev.edgelm.core;

/**
 * Bytes to text while they come: a character that spans several calls is given with its last byte.
 *
 * <p>Bytes that are no UTF-8 become U+FFFD, one for each longest beginning of a character (Unicode Standard, 3.9, and Python's
 * {@code errors="replace"}); Java's and Android's own decoders differ there.
 */
final class Utf8Decoder {
    private static final char REPLACEMENT = '\uFFFD';

    private final StringBuilder text = new StringBuilder();
    private int point; // bits of the character so far
    private int missing; // bytes it still needs
    private int low = 0x80; // the next byte's range
    private int high = 0xBF;

    /** The text of whole UTF-8. */
    static String decode(byte[] bytes) {
        Utf8Decoder decoder = new Utf8Decoder();
        return decoder.add(bytes) + decoder.end();
    }

    /** Takes bytes and gives the characters they complete. */
    String add(byte[] bytes) {
        text.setLength(0);
        for (byte value : bytes) {
            add(value & 0xFF);
        }
        return text.toString();
    }

    /** What is left of a character that was cut short; starts anew. */
    String end() {
        boolean cut = missing > 0;
        missing = 0;
        return cut ? String.valueOf(REPLACEMENT) : "";
    }

    private void add(int value) {
        if (missing > 0 && (value < low || value > high)) {
            text.append(REPLACEMENT);
            missing = 0;
        }
        if (missing > 0) {
            point = point << 6 | value & 0x3F;
            low = 0x80;
            high = 0xBF;
            if (--missing == 0) {
                text.appendCodePoint(point);
            }
        } else {
            begin(value);
        }
    }

    private void begin(int value) {
        low = value == 0xE0 ? 0xA0 : value == 0xF0 ? 0x90 : 0x80;
        high = value == 0xED ? 0x9F : value == 0xF4 ? 0x8F : 0xBF;
        if (value < 0x80) {
            text.append((char) value);
        } else if (value >= 0xC2 && value <= 0xDF) {
            missing = 1;
            point = value & 0x1F;
        } else if (value >= 0xE0 && value <= 0xEF) {
            missing = 2;
            point = value & 0x0F;
        } else if (value >= 0xF0 && value <= 0xF4) {
            missing = 3;
            point = value & 0x07;
        } else {
            text.append(REPLACEMENT);
        }
    }
}
