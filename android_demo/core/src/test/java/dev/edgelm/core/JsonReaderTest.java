package dev.edgelm.core;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.nio.charset.StandardCharsets;
import org.junit.Test;

public final class JsonReaderTest {
    private static Object read(String text) {
        return JsonValues.read(text.getBytes(StandardCharsets.UTF_8), "test");
    }

    @Test
    public void readsEveryKindOfValue() {
        String text = " {\"a\": [1, -2.5e2, true, false, null], \"b\":{}, \"c\":[]} ";
        assertEquals("{a=[1.0, -250.0, true, false, null], b={}, c=[]}", read(text).toString());
        assertEquals("q\"\\/\b\f\n\r\té😀ü", read("\"q\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\ud83d\\ude00ü\""));
        assertEquals("{a=2.0}", read("{\"a\":1,\"a\":2}").toString());
    }

    @Test
    public void skipsWhatReadingWouldRead() {
        String text = "{\"a\": [[], {\"b\": \"]}\"}, 1e5, \"\\u0041\"], \"c\": null}";
        JsonReader reader = new JsonReader(text.getBytes(StandardCharsets.UTF_8), "test");
        reader.skipValue();
        reader.end();
    }

    @Test
    public void refusesWhatIsNoJson() {
        String[] texts = {
            "", " ", "{", "[1,]", "[1 2]", "{\"a\" 1}", "{\"a\":1,}", "{a:1}", "'a'", "\"a", "\"\n\"", "\"\\x\"", "\"\\u12\"", 
            "\"\\ud83d\"", "\"\\udc00\"", "01", "1.", ".5", "+1", "1e", "-", "NaN", "Infinity", "tru", "nulll", "[1]]", "1 2",
            "\u00a01", "[}", "{]"
        };
        for (String text : texts) {
            EdgeLmException error = assertThrows(text, EdgeLmException.class, () -> read(text));
            assertTrue(error.what(), error.what().startsWith("test is damaged at byte "));
        }
    }

    @Test
    public void refusesDeepNestingAndLongNumbers() {
        StringBuilder deep = new StringBuilder();
        for (int i = 0; i < 100_000; i++) {
            deep.append('[');
        }
        assertTrue(assertThrows(EdgeLmException.class, () -> read(deep.toString())).what().contains("nested more than"));
        StringBuilder skipped = deep;
        assertThrows(EdgeLmException.class, () -> new JsonReader(skipped.toString().getBytes(StandardCharsets.UTF_8), "test").skipValue());
        StringBuilder digits = new StringBuilder("1");
        for (int i = 0; i < 1000; i++) {
            digits.append('0');
        }
        assertThrows(EdgeLmException.class, () -> read(digits.toString()));
    }
}
