package dev.edgelm.core;

/** Where Python's {@code str.lower} writes ς: Σ behind a letter and before none (Unicode, SpecialCasing.txt, Final_Sigma). */
final class FinalSigma {
    private static final String IGNORABLE = "'.:\u00B7\u0387\u055F\u05F4\u2018\u2019\u2024\u2027\uFE13\uFE52\uFE55\uFF07\uFF0E\uFF1A";

    private FinalSigma() {}

    static String apply(String text) {
        StringBuilder result = new StringBuilder(text);
        for (int i = text.indexOf('Σ'); i >= 0; i = text.indexOf('Σ', i + 1)) {
            if (casedBefore(text, i) && !casedBehind(text, i + 1)) {
                result.setCharAt(i, 'ς');
            }
        }
        return result.toString();
    }

    private static boolean casedBefore(String text, int end) {
        int at = end;
        while (at > 0) {
            int point = text.codePointBefore(at);
            if (isCased(point)) {
                return true;
            }
            if (!isIgnorable(point)) {
                return false;
            }
            at -= Character.charCount(point);
        }
        return false;
    }

    private static boolean casedBehind(String text, int start) {
        int at = start;
        while (at < text.length() && isIgnorable(text.codePointAt(at))) {
            if (isCased(text.codePointAt(at))) {
                return true;
            }
            at += Character.charCount(text.codePointAt(at));
        }
        return at < text.length() && isCased(text.codePointAt(at));
    }

    private static boolean isCased(int point) {
        return Character.isLowerCase(point) || Character.isUpperCase(point) || Character.isTitleCase(point);
    }

    private static boolean isIgnorable(int point) {
        switch (Character.getType(point)) {
            case Character.NON_SPACING_MARK:
            case Character.ENCLOSING_MARK:
            case Character.FORMAT:
            case Character.MODIFIER_LETTER:
            case Character.MODIFIER_SYMBOL:
                return true;
            default:
                return IGNORABLE.indexOf(point) >= 0;
        }
    }
}
