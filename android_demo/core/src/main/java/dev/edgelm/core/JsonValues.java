package dev.edgelm.core;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Small JSON as {@code Map}, {@code List}, {@code String}, {@code Double}, {@code Boolean} and null. Of equal keys the last one counts. */
final class JsonValues {
    private JsonValues() {}

    /**
     * A whole text.
     *
     * @param text UTF-8
     * @param name of the file, for messages
     */
    static Object read(byte[] text, String name) {
        JsonReader reader = new JsonReader(text, name);
        Object value = next(reader);
        reader.end();
        return value;
    }

    /** The next value of a reader. */
    static Object next(JsonReader reader) {
        switch (reader.peek()) {
            case '{':
                return nextMap(reader);
            case '[':
                return nextList(reader);
            case '"':
                return reader.nextString();
            case 't':
            case 'f':
            case 'n':
                return reader.nextLiteral();
            default:
                return reader.nextDouble();
        }
    }

    private static Map<String, Object> nextMap(JsonReader reader) {
        Map<String, Object> map = new LinkedHashMap<>();
        reader.beginObject();
        for (String key = reader.nextKey(); key != null; key = reader.nextKey()) {
            map.put(key, next(reader));
        }
        return map;
    }

    private static List<Object> nextList(JsonReader reader) {
        List<Object> list = new ArrayList<>();
        reader.beginArray();
        while (reader.nextElement()) {
            list.add(next(reader));
        }
        return list;
    }
}
