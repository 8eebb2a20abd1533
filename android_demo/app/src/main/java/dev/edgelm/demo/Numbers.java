package dev.edgelm.demo;

import java.util.Locale;

/** Numbers as the screens show them. */
final class Numbers {
    private Numbers() {}

    /** Milliseconds or MB: three significant digits are enough, 0.312 as well as 1250. */
    static String shortly(double value) {
        int decimals = value >= 100 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : 3;
        return String.format(Locale.getDefault(), "%." + decimals + "f", value);
    }

    /** A number without needless decimals, as fields hold it: 40, 0.8. */
    static String plain(double value) {
        return value == Math.rint(value) ? String.valueOf((long) value) : String.valueOf(value);
    }
}
