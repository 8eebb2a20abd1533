package dev.edgelm.core;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import java.util.regex.Pattern;

/** The {@code pre_tokenizer} section of a tokenizer.json. */
final class PreTokenizers {
    /** {@code \w+|[^\w\s]+} as Rust's regex crate reads it: the two joiners belong to words. */
    private static final String RUST_WORDS = "[\\w\\u200C\\u200D]+|[^\\w\\s\\u200C\\u200D]+";

    private static final Map<String, Function<Fields, PreTokenizer>> KINDS = new HashMap<>();

    static {
        KINDS.put("ByteLevel", ByteLevel::of);
        KINDS.put("Split", PreTokenizers::splitting);
        KINDS.put("Whitespace", fields -> new PatternSplitter(Patterns.of(RUST_WORDS), true, PatternSplitter.Behavior.REMOVED));
        KINDS.put("WhitespaceSplit", fields -> new PatternSplitter(Patterns.of("\\s"), false, PatternSplitter.Behavior.REMOVED));
        KINDS.put("Digits", PreTokenizers::digits);
        KINDS.put("Metaspace", Metaspace::of);
        KINDS.put("Sequence", fields -> sequence(fields.objects("pretokenizers")));
    }

    private PreTokenizers() {}

    /**
     * The rule that a section describes.
     *
     * @param fields the section; null for no rule
     * @throws EdgeLmException a part of it is not known
     */
    static PreTokenizer of(Fields fields) {
        if (fields == null) {
            return (text, start, end, first, sink) -> sink.accept(text, start, end);
        }
        Function<Fields, PreTokenizer> maker = KINDS.get(fields.text("type"));
        if (maker == null) {
            String what = "tokenizer.json: the pre_tokenizer " + fields.text("type") + " is not known";
            throw new EdgeLmException(what, String.join(", ", KINDS.keySet()));
        }
        return maker.apply(fields);
    }

    private static PreTokenizer splitting(Fields fields) {
        PatternSplitter.Behavior behavior = PatternSplitter.Behavior.of(fields.text("behavior"));
        return new PatternSplitter(Patterns.of(fields.object("pattern")), fields.flag("invert", false), behavior);
    }

    private static PreTokenizer digits(Fields fields) {
        boolean each = fields.flag("individual_digits", false);
        Pattern pattern = Patterns.of(each ? "\\p{N}" : "\\p{N}+");
        return new PatternSplitter(pattern, false, PatternSplitter.Behavior.ISOLATED);
    }

    private static PreTokenizer sequence(List<Fields> parts) {
        List<PreTokenizer> steps = new ArrayList<>();
        for (Fields part : parts) {
            steps.add(of(part));
        }
        return (text, start, end, first, sink) -> chain(steps, 0, text, start, end, first, sink);
    }

    private static void chain(List<PreTokenizer> steps, int step, CharSequence text, int start, int end, boolean first, PieceSink sink) {
        if (step == steps.size()) {
            sink.accept(text, start, end);
            return;
        }
        PieceSink next = (part, from, to) -> chain(steps, step + 1, part, from, to, first && from == start && part == text, sink);
        steps.get(step).split(text, start, end, first, next);
    }
}
