package dev.edgelm.core;

import java.text.Normalizer.Form;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import java.util.regex.Matcher;

/** The {@code normalizer} section of a tokenizer.json. */
final class Normalizers {
    /** How the Keras reader of edgelm writes Python's rule for the sigma at the end of a word; no Java pattern can express it. */
    static final String FINAL_SIGMA = "\\p{Cased}\\p{Case_Ignorable}*\\KΣ(?!\\p{Case_Ignorable}*\\p{Cased})";

    private static final Map<String, Function<Fields, Normalizer>> KINDS = new HashMap<>();

    static {
        KINDS.put("NFC", fields -> unicode(Form.NFC));
        KINDS.put("NFD", fields -> unicode(Form.NFD));
        KINDS.put("NFKC", fields -> unicode(Form.NFKC));
        KINDS.put("NFKD", fields -> unicode(Form.NFKD));
        KINDS.put("Lowercase", fields -> Normalizers::lowered);
        KINDS.put("StripAccents", fields -> Normalizers::withoutAccents);
        KINDS.put("Strip", fields -> strip(fields.flag("strip_left", true), fields.flag("strip_right", true)));
        KINDS.put("Prepend", fields -> prepend(fields.text("prepend")));
        KINDS.put("Replace", Normalizers::replace);
        KINDS.put("Precompiled", fields -> new PrecompiledRules(fields.text("precompiled_charsmap")));
        KINDS.put("Sequence", fields -> sequence(fields.objects("normalizers")));
    }

    private Normalizers() {}

    /**
     * The rule that a section describes.
     *
     * @param fields the section; null for no rule
     * @throws EdgeLmException a part of it is not known
     */
    static Normalizer of(Fields fields) {
        if (fields == null) {
            return text -> text;
        }
        Function<Fields, Normalizer> maker = KINDS.get(fields.text("type"));
        if (maker == null) {
            String what = "tokenizer.json: the normalizer " + fields.text("type") + " is not known";
            throw new EdgeLmException(what, String.join(", ", KINDS.keySet()));
        }
        return maker.apply(fields);
    }

    /** Letter by letter, as Rust's {@code char::to_lowercase}: only İ becomes two characters, Σ always σ. */
    static String lowered(String text) {
        StringBuilder result = new StringBuilder(text.length());
        for (int i = 0; i < text.length(); ) {
            int point = text.codePointAt(i);
            if (point == 0x130) {
                result.append("i\u0307");
            } else {
                result.appendCodePoint(Character.toLowerCase(point));
            }
            i += Character.charCount(point);
        }
        return result.toString();
    }

    private static Normalizer unicode(Form form) {
        return text -> java.text.Normalizer.normalize(text, form);
    }

    private static String withoutAccents(String text) {
        StringBuilder result = new StringBuilder(text.length());
        for (int i = 0; i < text.length(); ) {
            int point = text.codePointAt(i);
            if (!CodePoints.isMark(point)) {
                result.appendCodePoint(point);
            }
            i += Character.charCount(point);
        }
        return result.toString();
    }

    private static Normalizer strip(boolean left, boolean right) {
        return text -> {
            int from = 0;
            int to = text.length();
            while (left && from < to && CodePoints.isWhiteSpace(text.charAt(from))) {
                from++;
            }
            while (right && to > from && CodePoints.isWhiteSpace(text.charAt(to - 1))) {
                to--;
            }
            return text.substring(from, to);
        };
    }

    private static Normalizer prepend(String prefix) {
        return text -> text.isEmpty() ? text : prefix + text;
    }

    private static Normalizer replace(Fields fields) {
        String content = fields.text("content");
        Fields pattern = fields.object("pattern");
        if (pattern != null && pattern.text("Regex", "").equals(FINAL_SIGMA) && content.equals("ς")) {
            return FinalSigma::apply;
        }
        Matcher matcher = Patterns.of(pattern).matcher("");
        String literal = Matcher.quoteReplacement(content);
        return text -> matcher.reset(text).replaceAll(literal);
    }

    private static Normalizer sequence(List<Fields> parts) {
        List<Normalizer> steps = new ArrayList<>();
        for (Fields part : parts) {
            steps.add(of(part));
        }
        return text -> {
            String result = text;
            for (Normalizer step : steps) {
                result = step.apply(result);
            }
            return result;
        };
    }
}
