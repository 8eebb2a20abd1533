package dev.edgelm.core;

import java.util.regex.Pattern;
import java.util.regex.PatternSyntaxException;

/**
 * Regular expressions of a tokenizer.json (Oniguruma's syntax) as Java's, with the same meaning on the JVM and on Android.
 *
 * <p>{@code \s \S \d \w} and the dot are spelled out, because Java's own mean ASCII, Android's Unicode; {@code (?i:} gets Unicode's
 * letters. What reads differently in the two languages is refused: anchors {@code ^ $ \b \G \K}, nested character classes,
 * {@code \h}, scripts, possessive counts.
 */
final class Patterns {
    private static final String SPACE = "\\t-\\r\\x20\\x85\\xA0\\u1680\\u2000-\\u200A\\u2028\\u2029\\u202F\\u205F\\u3000";
    private static final String WORD =
            "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\u24B6-\\u24E9\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}";
    private static final String SAME = "AznrtfxupP";

    private final String source;
    private final StringBuilder target = new StringBuilder();
    private int at;
    private boolean inClass;

    private Patterns(String source) {
        this.source = source;
    }

    /**
     * The {@code pattern} of a part of tokenizer.json: an object with a literal {@code String} or a {@code Regex}.
     *
     * @throws EdgeLmException it is neither, or reads differently in Java
     */
    static Pattern of(Fields fields) {
        if (fields != null && fields.has("String")) {
            return Pattern.compile(Pattern.quote(fields.text("String")));
        }
        if (fields == null || !fields.has("Regex")) {
            throw new EdgeLmException("tokenizer.json: a pattern is neither a String nor a Regex");
        }
        return of(fields.text("Regex"));
    }

    /**
     * A regular expression in Oniguruma's syntax.
     *
     * @throws EdgeLmException it reads differently in Java
     */
    static Pattern of(String regex) {
        try {
            return Pattern.compile(new Patterns(regex).translated());
        } catch (PatternSyntaxException error) {
            throw new EdgeLmException("tokenizer.json: the pattern " + regex + " is no regular expression", "", "", error);
        }
    }

    private String translated() {
        while (at < source.length()) {
            char next = source.charAt(at++);
            if (next == '\\') {
                escape();
            } else if (inClass) {
                insideClass(next);
            } else {
                outsideClass(next);
            }
        }
        return target.toString();
    }

    private void outsideClass(char next) {
        if (next == '^' || next == '$') {
            throw refused(String.valueOf(next));
        }
        if (next == '.') {
            target.append("[^\\n]");
        } else if (next == '(' && source.startsWith("?i:", at)) {
            target.append("(?iu:");
            at += 3;
        } else {
            inClass = next == '[';
            target.append(next);
            if (next == '}' && at < source.length() && source.charAt(at) == '+') {
                throw refused("}+");
            }
        }
    }

    private void insideClass(char next) {
        if (next == '[' || next == '&') {
            throw refused(next + " in a class");
        }
        inClass = next != ']';
        target.append(next);
    }

    private void escape() {
        if (at >= source.length()) {
            throw refused("\\ at the end");
        }
        char letter = source.charAt(at++);
        if (letter == 's' || letter == 'w' || letter == 'd') {
            String content = letter == 's' ? SPACE : letter == 'w' ? WORD : "\\p{Nd}";
            target.append(inClass ? content : '[' + content + ']');
        } else if (!inClass && (letter == 'S' || letter == 'W' || letter == 'D')) {
            target.append("[^").append(letter == 'S' ? SPACE : letter == 'W' ? WORD : "\\p{Nd}").append(']');
        } else if (letter == 'p' || letter == 'P') {
            property(letter);
        } else if (SAME.indexOf(letter) >= 0 || !Character.isLetterOrDigit(letter)) {
            target.append('\\').append(letter);
            if (letter == 'x' && source.startsWith("{", at)) {
                int end = source.indexOf('}', at) + 1;
                target.append(source, at, end);
                at = end;
            }
        } else {
            throw refused("\\" + letter);
        }
    }

    /** General categories mean the same everywhere; their names have one or two letters. */
    private void property(char letter) {
        int end = source.indexOf('}', at) + 1;
        String name = end > 0 ? source.substring(at, end) : "";
        if (!name.matches("\\{[LMNPSZC][a-z]?}")) {
            throw refused("\\" + letter + name);
        }
        target.append('\\').append(letter).append(name);
        at = end;
    }

    private EdgeLmException refused(String part) {
        return new EdgeLmException(
                "tokenizer.json: " + part + " in the pattern " + source + " is not known",
                "groups, lookaround, character classes, \\s \\S \\d \\w, general categories such as \\p{L}");
    }
}
