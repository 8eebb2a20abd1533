package dev.edgelm.core;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/** GPT-2's byte level: words by a pattern, each byte written as a printable character ({@code bytes_to_unicode}). */
final class ByteLevel implements PreTokenizer {
    private static final String WORDS = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    private static final char[] CHARACTERS = new char[256]; // byte -> the character it is written as
    private static final int[] BYTES = new int[512]; // character -> its byte, -1 for others

    static {
        Arrays.fill(BYTES, -1);
        int others = 256;
        for (int value = 0; value < 256; value++) {
            boolean printable = value >= 0x21 && value <= 0x7E || value >= 0xA1 && value <= 0xAC || value >= 0xAE;
            CHARACTERS[value] = (char) (printable ? value : others++);
            BYTES[CHARACTERS[value]] = value;
        }
    }

    private final boolean prefix;
    private final PreTokenizer words;
    private final ByteList bytes = new ByteList();
    private final StringBuilder written = new StringBuilder();

    private ByteLevel(boolean prefix, PreTokenizer words) {
        this.prefix = prefix;
        this.words = words;
    }

    static ByteLevel of(Fields fields) {
        PreTokenizer words =
                fields.flag("use_regex", true)
                        ? new PatternSplitter(Patterns.of(WORDS), false, PatternSplitter.Behavior.ISOLATED)
                        : PreTokenizers.of(null);
        return new ByteLevel(fields.flag("add_prefix_space", true), words);
    }

    @Override
    public void split(CharSequence text, int start, int end, boolean first, PieceSink sink) {
        PieceSink writer = (part, from, to) -> write(part, from, to, sink);
        if (prefix && text.charAt(start) != ' ') {
            String spaced = new StringBuilder(end - start + 1).append(' ').append(text, start, end).toString();
            words.split(spaced, 0, spaced.length(), first, writer);
        } else {
            words.split(text, start, end, first, writer);
        }
    }

    private void write(CharSequence part, int from, int to, PieceSink sink) {
        bytes.clear();
        bytes.addText(part, from, to);
        written.setLength(0);
        for (int i = 0; i < bytes.size(); i++) {
            written.append(CHARACTERS[bytes.array()[i] & 0xFF]);
        }
        sink.accept(written, 0, written.length());
    }

    /** The bytes a token stands for; a token with a character that is no byte's is taken as it is written. */
    static byte[] bytesOf(String token) {
        byte[] result = new byte[token.length()];
        for (int i = 0; i < result.length; i++) {
            char character = token.charAt(i);
            if (character >= BYTES.length || BYTES[character] < 0) {
                return token.getBytes(StandardCharsets.UTF_8);
            }
            result[i] = (byte) BYTES[character];
        }
        return result;
    }
}
