package dev.edgelm.core;

import java.util.regex.Pattern;

/** Spaces written as U+2581, with one before the text, and the text cut before each of them. */
final class Metaspace implements PreTokenizer {
    private final String mark;
    private final String scheme;
    private final PreTokenizer cut;

    private Metaspace(String mark, String scheme, boolean split) {
        this.mark = mark;
        this.scheme = scheme;
        Pattern pattern = Pattern.compile(Pattern.quote(mark));
        this.cut = split ? new PatternSplitter(pattern, false, PatternSplitter.Behavior.MERGEDWITHNEXT) : PreTokenizers.of(null);
    }

    static Metaspace of(Fields fields) {
        String scheme = fields.text("prepend_scheme", fields.flag("add_prefix_space", true) ? "always" : "never");
        if (!scheme.equals("always") && !scheme.equals("first") && !scheme.equals("never")) {
            throw new EdgeLmException("tokenizer.json: the prepend_scheme " + scheme + " is not known", "always, first, never");
        }
        return new Metaspace(fields.text("replacement"), scheme, fields.flag("split", true));
    }

    @Override
    public void split(CharSequence text, int start, int end, boolean first, PieceSink sink) {
        String marked = text.subSequence(start, end).toString().replace(" ", mark);
        boolean wanted = scheme.equals("always") || scheme.equals("first") && first;
        String whole = wanted && !marked.startsWith(mark) ? mark + marked : marked;
        cut.split(whole, 0, whole.length(), first, sink);
    }
}
