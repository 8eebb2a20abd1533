package dev.edgelm.core;

import java.util.Locale;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Cuts a text where a pattern matches. */
final class PatternSplitter implements PreTokenizer {
    /** What becomes of the matches. */
    enum Behavior {
        /** They are dropped. */
        REMOVED,
        /** Each is a part of its own. */
        ISOLATED,
        /** They go with the text before them. */
        MERGEDWITHPREVIOUS,
        /** They go with the text behind them. */
        MERGEDWITHNEXT,
        /** Matches that touch are one part. */
        CONTIGUOUS;

        static Behavior of(String name) {
            for (Behavior behavior : values()) {
                if (behavior.name().equals(name.toUpperCase(Locale.ROOT))) {
                    return behavior;
                }
            }
            String allowed = "Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous";
            throw new EdgeLmException("tokenizer.json: the behavior " + name + " of a Split is not known", allowed);
        }
    }

    private final Matcher matcher;
    private final boolean invert;
    private final Behavior behavior;
    private int pending = -1; // where the part not yet given begins; -1 for none
    private boolean pendingMatch;

    /**
     * A splitter.
     *
     * @param invert what lies between the matches counts as the matches
     */
    PatternSplitter(Pattern pattern, boolean invert, Behavior behavior) {
        this.matcher = pattern.matcher("");
        this.invert = invert;
        this.behavior = behavior;
    }

    @Override
    public void split(CharSequence text, int start, int end, boolean first, PieceSink sink) {
        matcher.reset(text).region(start, end);
        pending = -1;
        int at = start;
        while (matcher.find()) {
            int from = matcher.start();
            int to = matcher.end();
            if (to > from) {
                part(text, at, from, invert, sink);
                part(text, from, to, !invert, sink);
                at = to;
            }
        }
        part(text, at, end, invert, sink);
        if (pending >= 0) {
            sink.accept(text, pending, end);
        }
    }

    /** Takes the next stretch of matched or unmatched text; `pending` becomes a part once it is known where it ends. */
    private void part(CharSequence text, int from, int to, boolean match, PieceSink sink) {
        if (from == to) {
            return;
        }
        boolean removed = match && behavior == Behavior.REMOVED;
        if (pending >= 0 && !joins(match)) {
            sink.accept(text, pending, from);
            pending = -1;
        }
        if (removed) {
            return;
        }
        pending = pending < 0 ? from : pending;
        pendingMatch = match;
    }

    private boolean joins(boolean match) {
        switch (behavior) {
            case CONTIGUOUS:
                return match == pendingMatch;
            case MERGEDWITHPREVIOUS:
                return match && !pendingMatch;
            case MERGEDWITHNEXT:
                return !match && pendingMatch;
            default:
                return false;
        }
    }
}
