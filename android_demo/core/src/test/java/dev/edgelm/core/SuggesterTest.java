package dev.edgelm.core;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;

import java.nio.charset.StandardCharsets;
import java.util.List;
import org.junit.Test;

public final class SuggesterTest {
    private static final String WORDS =
            "{\"added_tokens\":[],\"normalizer\":{\"type\":\"Lowercase\"},\"pre_tokenizer\":{\"type\":\"WhitespaceSplit\"},"
                    + "\"model\":{\"type\":\"WordLevel\",\"unk_token\":\"<unk>\","
                    + "\"vocab\":{\"<unk>\":0,\"</s>\":1,\"see\":2,\"you\":3,\"soon\":4}}}";

    private final FakeTransformer model = new FakeTransformer();
    private final Session session = Session.open(FakeTransformer.manifest(), model);
    private final Tokenizer tokenizer = Tokenizer.parse(WORDS.getBytes(StandardCharsets.UTF_8));
    private final Suggester suggester = new Suggester(session, tokenizer);

    @Test
    public void aGrowingTextIsComputedOnlyWhereItGrew() {
        String first = suggester.suggest("see", 3).toString();
        assertEquals(2, session.position());
        int before = model.runs;
        suggester.suggest("see you ", 3);
        assertEquals(before + 1, model.runs);
        suggester.suggest("see you", 3);
        assertEquals(before + 1, model.runs);
        assertEquals(first, suggester.suggest("see", 3).toString());
        assertEquals(2, session.position());
    }

    @Test
    public void specialTokensAreNoSuggestions() {
        List<Suggestion> words = suggester.suggest("SEE", 9);
        for (Suggestion word : words) {
            assertEquals(word.text(), word.text().replaceAll("[<>/]", "").trim());
        }
        assertThrows(EdgeLmException.class, () -> suggester.suggest("see", 0));
    }

    @Test
    public void aCompletionEndsWhenTheSinkHasEnough() {
        Completer completer = new Completer(session, tokenizer);
        SamplingSettings warm = new SamplingSettings(1e9, 0, 1, 1, 5); // all tokens are equally likely
        int all = completer.complete("see", 40, warm, text -> true);
        StringBuilder written = new StringBuilder();
        int some = completer.complete("see", 40, warm, text -> written.append(text).length() < 4);
        assertEquals(1, Math.min(some, all));
        assertEquals(some, written.toString().trim().split(" ").length);
        assertEquals(0, completer.complete("see", 0, warm, text -> true));
    }
}
