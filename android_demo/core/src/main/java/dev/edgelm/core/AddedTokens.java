package dev.edgelm.core;

import java.util.ArrayList;
import java.util.BitSet;
import java.util.List;

/**
 * The {@code added_tokens} of a tokenizer.json: texts that are tokens as they stand, found before the model sees the text.
 *
 * <p>At each place the longest one counts. Those with {@code normalized} are looked for after normalization.
 */
final class AddedTokens {
    /** Takes the parts of a text. */
    interface Sink {
        /** Takes an added token. */
        void token(int id);

        /**
         * Takes a text between added tokens, not empty.
         *
         * @param first whether it is the beginning of the text that was searched
         */
        void text(String text, boolean first);
    }

    /** One added token and how it is matched. */
    static final class Entry {
        final String content;
        final int id;
        final boolean special;
        final boolean normalized;
        private final boolean singleWord;
        private final boolean takesSpaceBefore;
        private final boolean takesSpaceBehind;

        Entry(Fields fields) {
            content = fields.text("content");
            id = fields.count("id", 0);
            special = fields.flag("special", false);
            normalized = fields.flag("normalized", false);
            singleWord = fields.flag("single_word", false);
            takesSpaceBefore = fields.flag("lstrip", false);
            takesSpaceBehind = fields.flag("rstrip", false);
        }
    }

    private final List<Entry> entries = new ArrayList<>();
    private final List<String> contents = new ArrayList<>();
    private final BitSet firsts = new BitSet(); // first characters

    /** Adds a token that is looked for as {@code content}; an empty one is never found. */
    void add(Entry entry, String content) {
        if (!content.isEmpty()) {
            entries.add(entry);
            contents.add(content);
            firsts.set(content.charAt(0));
        }
    }

    /** Cuts a text at the added tokens. */
    void split(String text, Sink sink) {
        int given = 0;
        int at = 0;
        while (at < text.length()) {
            int found = firsts.get(text.charAt(at)) ? longestAt(text, at) : -1;
            if (found < 0) {
                at++;
                continue;
            }
            Entry entry = entries.get(found);
            int end = at + contents.get(found).length();
            if (!entry.singleWord || standsAlone(text, at, end)) {
                int from = entry.takesSpaceBefore ? Math.max(given, spaceBefore(text, at)) : at;
                give(text, given, from, sink);
                sink.token(entry.id);
                given = entry.takesSpaceBehind ? spaceBehind(text, end) : end;
            }
            at = Math.max(end, given);
        }
        give(text, given, text.length(), sink);
    }

    private int longestAt(String text, int at) {
        int longest = -1;
        for (int i = 0; i < contents.size(); i++) {
            String content = contents.get(i);
            if (text.startsWith(content, at) && (longest < 0 || content.length() > contents.get(longest).length())) {
                longest = i;
            }
        }
        return longest;
    }

    private static void give(String text, int from, int to, Sink sink) {
        if (from < to) {
            sink.text(text.substring(from, to), from == 0);
        }
    }

    private static boolean standsAlone(String text, int start, int end) {
        boolean wordBefore = start > 0 && CodePoints.isWord(text.codePointBefore(start));
        boolean wordBehind = end < text.length() && CodePoints.isWord(text.codePointAt(end));
        return !wordBefore && !wordBehind;
    }

    private static int spaceBefore(String text, int start) {
        int at = start;
        while (at > 0 && CodePoints.isWhiteSpace(text.charAt(at - 1))) {
            at--;
        }
        return at;
    }

    private static int spaceBehind(String text, int end) {
        int at = end;
        while (at < text.length() && CodePoints.isWhiteSpace(text.charAt(at))) {
            at++;
        }
        return at;
    }
}
