package dev.edgelm.demo;

import dev.edgelm.core.SamplingSettings;
import dev.edgelm.core.Suggestion;
import dev.edgelm.core.TextSink;
import dev.edgelm.demo.engine.Engine;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/**
 * Holds an engine against what Python's runtime gave for the same model.
 *
 * <p>The golden is the one the Python tests and the JVM tests of {@code core} assert, too: {@code tests/golden/engine.json}.
 */
final class GoldenCheck {
    private static final int CONTINUED_TOKENS = 24; // as tests/golden/engine_golden.py has it

    private final Engine engine;
    private final List<String> differences = new ArrayList<>();
    private int checks;

    GoldenCheck(Engine engine) {
        this.engine = engine;
    }

    /**
     * Runs every check of a model.
     *
     * @param golden of this model
     * @throws JSONException the golden is damaged
     */
    void run(JSONObject golden) throws JSONException {
        JSONObject ids = golden.getJSONObject("ids");
        for (Iterator<String> texts = ids.keys(); texts.hasNext(); ) {
            String text = texts.next();
            compare("ids of " + text, ids.getJSONArray(text).toString(), ids(text));
        }
        JSONObject suggestions = golden.getJSONObject("suggestions");
        for (Iterator<String> texts = suggestions.keys(); texts.hasNext(); ) {
            String text = texts.next();
            JSONArray words = suggestions.getJSONArray(text);
            compare("words after " + text, words.toString(), suggested(text, words.length()));
        }
        JSONObject continuations = golden.getJSONObject("continuations");
        for (Iterator<String> texts = continuations.keys(); texts.hasNext(); ) {
            String text = texts.next();
            compare("continuation of " + text, continuations.getString(text), continued(text));
        }
    }

    /** How many checks ran. */
    int checks() {
        return checks;
    }

    /** What differed, one line each. */
    List<String> differences() {
        return differences;
    }

    private String ids(String text) {
        JSONArray ids = new JSONArray();
        for (int id : engine.artifact().tokenizer().encode(text)) {
            ids.put(id);
        }
        return ids.toString();
    }

    private String suggested(String text, int count) {
        JSONArray words = new JSONArray();
        for (Suggestion suggestion : engine.suggester().suggest(text, count)) {
            words.put(suggestion.text());
        }
        return words.toString();
    }

    private String continued(String text) {
        StringBuilder written = new StringBuilder();
        TextSink sink = part -> {
            written.append(part);
            return true;
        };
        engine.completer().complete(text, CONTINUED_TOKENS, SamplingSettings.GREEDY, sink);
        return written.toString();
    }

    private void compare(String what, String wanted, String found) {
        checks++;
        if (!wanted.equals(found)) {
            differences.add(what + ": " + found + " instead of " + wanted);
        }
    }
}
