package dev.edgelm.core;

/**
 * Where user-perceived characters end (Unicode Standard Annex 29), as far as the precompiled rules of sentencepiece look: they treat
 * clusters of at most five UTF-8 bytes as a whole.
 *
 * <p>Rules that only join longer clusters (Hangul syllables, flags, emoji sequences, Indic conjuncts) are left out, for which reason
 * the characters of such a cluster come one by one; the rules see them one by one anyway.
 */
final class Graphemes {
    private Graphemes() {}

    /** The end of the cluster that begins at {@code start}. */
    static int end(String text, int start) {
        int point = text.codePointAt(start);
        int end = start + Character.charCount(point);
        while (isPrepended(point) && end < text.length() && !isControl(text.codePointAt(end))) {
            point = text.codePointAt(end);
            end += Character.charCount(point);
        }
        if (isControl(point)) {
            return point == '\r' && end < text.length() && text.charAt(end) == '\n' ? end + 1 : end;
        }
        while (end < text.length() && extendsCluster(text.codePointAt(end))) {
            end += Character.charCount(text.codePointAt(end));
        }
        return end;
    }

    /** Grapheme_Cluster_Break = Control, CR or LF. */
    private static boolean isControl(int point) {
        switch (Character.getType(point)) {
            case Character.CONTROL:
            case Character.LINE_SEPARATOR:
            case Character.PARAGRAPH_SEPARATOR:
                return true;
            case Character.FORMAT:
                return !extendsCluster(point) && !isPrepended(point);
            default:
                return false;
        }
    }

    /** Grapheme_Cluster_Break = Extend, SpacingMark or ZWJ. */
    private static boolean extendsCluster(int point) {
        if (point < 0x300) {
            return false;
        }
        switch (Character.getType(point)) {
            case Character.NON_SPACING_MARK:
            case Character.ENCLOSING_MARK:
                return true;
            case Character.COMBINING_SPACING_MARK:
                return !standsAlone(point);
            default:
                return point == 0x200C
                        || point == 0x200D
                        || point == 0xE33
                        || point == 0xEB3
                        || point == 0xFF9E
                        || point == 0xFF9F
                        || point >= 0x1F3FB && point <= 0x1F3FF
                        || point >= 0xE0020 && point <= 0xE007F;
        }
    }

    /** The spacing marks that are no part of the cluster before them (GraphemeBreakProperty.txt). */
    private static boolean standsAlone(int point) {
        return point == 0x102B
                || point == 0x102C
                || point == 0x1038
                || point >= 0x1062 && point <= 0x1064
                || point >= 0x1067 && point <= 0x106D
                || point == 0x1083
                || point >= 0x1087 && point <= 0x108C
                || point == 0x108F
                || point >= 0x109A && point <= 0x109C
                || point == 0x1A61
                || point == 0x1A63
                || point == 0x1A64
                || point == 0xAA7B
                || point == 0xAA7D
                || point == 0x11720
                || point == 0x11721;
    }

    /** Grapheme_Cluster_Break = Prepend, as far as a cluster of five bytes can begin with it. */
    private static boolean isPrepended(int point) {
        return point >= 0x600 && point <= 0x605
                || point == 0x6DD
                || point == 0x70F
                || point == 0x890
                || point == 0x891
                || point == 0x8E2
                || point == 0xD4E;
    }
}
