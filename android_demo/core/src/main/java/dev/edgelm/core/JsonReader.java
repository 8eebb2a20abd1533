package dev.edgelm.core;

import java.nio.charset.StandardCharsets;

/**
 * A strict reader of JSON (RFC 8259) in UTF-8 that can be pulled value by value, so that a vocabulary becomes arrays without a
 * {@code String} for each piece.
 *
 * <pre>{@code
 * reader.beginObject();
 * for (String key = reader.nextKey(); key != null; key = reader.nextKey()) { ... reader.nextString() ... }
 * reader.end();
 * }</pre>
 *
 * Whatever is not JSON, is nested more than {@link #DEEPEST} times or is of another type than asked for is an {@link EdgeLmException}
 * that says where.
 */
final class JsonReader {
    /** Containers within containers; a tokenizer.json has ten. */
    static final int DEEPEST = 60;

    private static final int SHORT = 9; // digits that fit an int

    private final byte[] text;
    private final String name;
    private final ByteList scratch = new ByteList();
    private int at;
    private int depth;
    private long begun; // bit d: the container at depth d has an element already

    /**
     * A reader at the start of a text.
     *
     * @param text UTF-8
     * @param name of the file, for messages
     */
    JsonReader(byte[] text, String name) {
        this(text, name, 0);
    }

    /**
     * A reader at a value inside a text.
     *
     * @param text UTF-8
     * @param name of the file, for messages
     * @param offset what {@link #offset()} gave before the value
     */
    JsonReader(byte[] text, String name, int offset) {
        this.text = text;
        this.name = name;
        this.at = offset;
    }

    /** Where the next value begins, in bytes. */
    int offset() {
        skipSpace();
        return at;
    }

    /** The first character of the next value: a bracket or brace, a quote, t, f, n, a minus or a digit; 0 at the end. */
    char peek() {
        skipSpace();
        return at < text.length ? (char) (text[at] & 0xFF) : '\0';
    }

    void beginObject() {
        open('{');
    }

    void beginArray() {
        open('[');
    }

    /** The next key of the object begun last; null at its end. */
    String nextKey() {
        if (!advance('}')) {
            return null;
        }
        String key = nextString();
        expect(':');
        return key;
    }

    /** Like {@link #nextKey()}, with the key's UTF-8 bytes added to {@code key}; false at the end of the object. */
    boolean nextKey(ByteList key) {
        if (!advance('}')) {
            return false;
        }
        nextString(key);
        expect(':');
        return true;
    }

    /** Whether the array begun last has another element. */
    boolean nextElement() {
        return advance(']');
    }

    String nextString() {
        scratch.clear();
        nextString(scratch);
        return scratch.toString();
    }

    /** Adds the UTF-8 bytes of the next string to {@code target}. */
    void nextString(ByteList target) {
        expect('"');
        int run = at;
        while (true) {
            int value = at < text.length ? text[at] & 0xFF : -1;
            if (value < 0x20) {
                throw error(value < 0 ? "the text ends inside a string" : "a control character inside a string");
            }
            if (value != '"' && value != '\\') {
                at++;
                continue;
            }
            target.add(text, run, at++);
            if (value == '"') {
                return;
            }
            target.addCodePoint(escape());
            run = at;
        }
    }

    double nextDouble() {
        skipSpace();
        int start = at;
        accept('-');
        if (!accept('0')) {
            digits();
        }
        if (accept('.')) {
            digits();
        }
        if (accept('e') || accept('E')) {
            if (!accept('+')) {
                accept('-');
            }
            digits();
        }
        if (at - start <= SHORT) {
            return shortNumber(start);
        }
        if (at - start > 400) {
            throw error("a number of " + (at - start) + " characters");
        }
        return Double.parseDouble(new String(text, start, at - start, StandardCharsets.US_ASCII));
    }

    /** The next value where it is true, false or null. */
    Boolean nextLiteral() {
        char first = peek();
        String word = first == 't' ? "true" : first == 'f' ? "false" : "null";
        for (int i = 0; i < word.length(); i++) {
            if (!accept(word.charAt(i))) {
                throw error("a value was expected");
            }
        }
        return first == 'n' ? null : Boolean.valueOf(first == 't');
    }

    /** Reads over the next value, checking it, and keeps nothing of it. */
    void skipValue() {
        char first = peek();
        if (first == '{') {
            beginObject();
            for (scratch.clear(); nextKey(scratch); scratch.clear()) {
                skipValue();
            }
        } else if (first == '[') {
            beginArray();
            while (nextElement()) {
                skipValue();
            }
        } else if (first == '"') {
            scratch.clear();
            nextString(scratch);
        } else if (first == 't' || first == 'f' || first == 'n') {
            nextLiteral();
        } else {
            nextDouble();
        }
    }

    /** Checks that nothing follows the value. */
    void end() {
        skipSpace();
        if (at < text.length) {
            throw error("something follows the end");
        }
    }

    /** An error at the present place. */
    EdgeLmException error(String reason) {
        return new EdgeLmException(name + " is damaged at byte " + at + ": " + reason, "JSON as edgelm convert writes it");
    }

    private void open(char bracket) {
        expect(bracket);
        if (++depth > DEEPEST) {
            throw error("it is nested more than " + DEEPEST + " times");
        }
        begun &= ~(1L << depth);
    }

    /** Goes to the next element of a container; false behind its closing bracket. */
    private boolean advance(char bracket) {
        skipSpace();
        if (accept(bracket)) {
            depth--;
            return false;
        }
        if ((begun & 1L << depth) != 0) {
            expect(',');
        }
        begun |= 1L << depth;
        return true;
    }

    /** The number of a few characters from {@code start} to here: ids and ranks, which need no {@code String}. */
    private double shortNumber(int start) {
        int value = 0;
        for (int i = start; i < at; i++) {
            if (text[i] < '0' || text[i] > '9') {
                return Double.parseDouble(new String(text, start, at - start, StandardCharsets.US_ASCII));
            }
            value = 10 * value + text[i] - '0';
        }
        return value;
    }

    private int escape() {
        int value = at < text.length ? text[at++] : -1;
        switch (value) {
            case '"':
            case '\\':
            case '/':
                return value;
            case 'b':
                return '\b';
            case 'f':
                return '\f';
            case 'n':
                return '\n';
            case 'r':
                return '\r';
            case 't':
                return '\t';
            case 'u':
                return unicode();
            default:
                throw error("an unknown escape");
        }
    }

    private int unicode() {
        int high = hex();
        if (!Character.isSurrogate((char) high)) {
            return high;
        }
        if (Character.isHighSurrogate((char) high) && accept('\\') && accept('u')) {
            int low = hex();
            if (Character.isLowSurrogate((char) low)) {
                return Character.toCodePoint((char) high, (char) low);
            }
        }
        throw error("half of a surrogate pair");
    }

    private int hex() {
        int value = 0;
        for (int i = 0; i < 4; i++) {
            int digit = at < text.length ? Character.digit(text[at++], 16) : -1;
            if (digit < 0) {
                throw error("an escape without four hexadecimal digits");
            }
            value = 16 * value + digit;
        }
        return value;
    }

    private void digits() {
        int start = at;
        while (at < text.length && text[at] >= '0' && text[at] <= '9') {
            at++;
        }
        if (at == start) {
            throw error("a value was expected");
        }
    }

    private boolean accept(char wanted) {
        if (at < text.length && text[at] == wanted) {
            at++;
            return true;
        }
        return false;
    }

    private void expect(char wanted) {
        skipSpace();
        if (!accept(wanted)) {
            throw error("'" + wanted + "' was expected");
        }
    }

    private void skipSpace() {
        while (at < text.length && (text[at] == ' ' || text[at] == '\n' || text[at] == '\r' || text[at] == '\t')) {
            at++;
        }
    }
}
