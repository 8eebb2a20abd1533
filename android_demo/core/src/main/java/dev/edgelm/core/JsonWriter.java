package dev.edgelm.core;

import java.util.Locale;

/** Writes JSON in one line; commas come by themselves. */
final class JsonWriter {
    private final StringBuilder text = new StringBuilder();
    private boolean comma;

    JsonWriter begin(char bracket) {
        separate();
        text.append(bracket);
        comma = false;
        return this;
    }

    JsonWriter end(char bracket) {
        text.append(bracket);
        comma = true;
        return this;
    }

    JsonWriter key(String key) {
        value(key);
        text.append(": ");
        comma = false;
        return this;
    }

    JsonWriter value(String value) {
        separate();
        text.append('"');
        for (int i = 0; i < value.length(); i++) {
            char unit = value.charAt(i);
            if (unit == '"' || unit == '\\') {
                text.append('\\').append(unit);
            } else if (unit < 0x20 || unit == 0x7F || Character.isSurrogate(unit)) {
                text.append(String.format(Locale.ROOT, "\\u%04x", (int) unit));
            } else {
                text.append(unit);
            }
        }
        text.append('"');
        return this;
    }

    JsonWriter value(long value) {
        separate();
        text.append(value);
        return this;
    }

    /** A number with at most four decimals: what a clock of nanoseconds is worth in ms. */
    JsonWriter value(double value) {
        separate();
        text.append(Math.round(value * 1e4) / 1e4);
        return this;
    }

    JsonWriter nothing() {
        separate();
        text.append("null");
        return this;
    }

    @Override
    public String toString() {
        return text.toString();
    }

    private void separate() {
        if (comma) {
            text.append(", ");
        }
        comma = true;
    }
}
