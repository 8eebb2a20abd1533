package dev.edgelm.core;

/**
 * Classes of characters by Unicode's own definitions, the same on every platform ({@code \s} of Java and of Android differ).
 *
 * <p>The general categories come from the platform: characters younger than its Unicode version are unassigned there.
 */
final class CodePoints {
    private CodePoints() {}

    /** Property White_Space: what {@code \s} means in Oniguruma and {@code char::is_whitespace} in Rust. */
    static boolean isWhiteSpace(int point) {
        return point >= 0x09 && point <= 0x0D
                || point == 0x20
                || point == 0x85
                || point == 0xA0
                || point == 0x1680
                || point >= 0x2000 && point <= 0x200A
                || point == 0x2028
                || point == 0x2029
                || point == 0x202F
                || point == 0x205F
                || point == 0x3000;
    }

    /** What Python's {@code str.strip} takes off: white space and the four information separators. */
    static boolean isPythonSpace(int point) {
        return isWhiteSpace(point) || point >= 0x1C && point <= 0x1F;
    }

    /** Categories Mn, Mc and Me. */
    static boolean isMark(int point) {
        int type = Character.getType(point);
        return type == Character.NON_SPACING_MARK || type == Character.COMBINING_SPACING_MARK || type == Character.ENCLOSING_MARK;
    }

    /** Categories Nd, Nl and No. */
    static boolean isNumber(int point) {
        int type = Character.getType(point);
        return type == Character.DECIMAL_DIGIT_NUMBER || type == Character.LETTER_NUMBER || type == Character.OTHER_NUMBER;
    }

    /** What {@code \w} means in Rust: alphabetic, marks, decimal digits, connector punctuation, the two joiners. */
    static boolean isWord(int point) {
        int type = Character.getType(point);
        return Character.isAlphabetic(point)
                || isMark(point)
                || type == Character.DECIMAL_DIGIT_NUMBER
                || type == Character.CONNECTOR_PUNCTUATION
                || point == 0x200C
                || point == 0x200D;
    }

    /** A text with U+FFFD for every half of a surrogate pair, so that it can be written as UTF-8; most often the text itself. */
    static String repaired(String text) {
        StringBuilder repaired = null;
        for (int i = 0; i < text.length(); i++) {
            int point = text.codePointAt(i);
            if (point > 0xFFFF) {
                i++;
            } else if (Character.isSurrogate((char) point)) {
                repaired = repaired == null ? new StringBuilder(text) : repaired;
                repaired.setCharAt(i, '\uFFFD');
            }
        }
        return repaired == null ? text : repaired.toString();
    }

    /** A text without {@linkplain #isPythonSpace white space} at its end, or at both ends. */
    static String stripped(String text, boolean start) {
        int from = 0;
        int to = text.length();
        while (to > 0 && isPythonSpace(text.charAt(to - 1))) {
            to--;
        }
        while (start && from < to && isPythonSpace(text.charAt(from))) {
            from++;
        }
        return text.substring(from, to);
    }
}
