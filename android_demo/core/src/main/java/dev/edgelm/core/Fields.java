package dev.edgelm.core;

import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** A JSON object whose values are asked for by key and type; a value of another type is an {@link EdgeLmException}. */
final class Fields {
    private final Map<String, Object> values;
    private final String name;

    private Fields(Map<String, Object> values, String name) {
        this.values = values;
        this.name = name;
    }

    /**
     * A value that has to be an object.
     *
     * @param value as {@link JsonValues} gives it
     * @param name what it is, for messages
     */
    static Fields of(Object value, String name) {
        if (!(value instanceof Map)) {
            throw new EdgeLmException(name + " is no JSON object");
        }
        Map<String, Object> values = new LinkedHashMap<>();
        for (Map.Entry<?, ?> entry : ((Map<?, ?>) value).entrySet()) {
            values.put((String) entry.getKey(), entry.getValue());
        }
        return new Fields(values, name);
    }

    Iterable<String> keys() {
        return values.keySet();
    }

    boolean has(String key) {
        return values.get(key) != null;
    }

    /** An object; null where the key is absent or null. */
    Fields object(String key) {
        return has(key) ? of(values.get(key), label(key)) : null;
    }

    /** A string. */
    String text(String key) {
        return typed(key, String.class);
    }

    /** A string; {@code fallback} where the key is absent or null. */
    String text(String key, String fallback) {
        return has(key) ? text(key) : fallback;
    }

    /** True or false; {@code fallback} where the key is absent or null. */
    boolean flag(String key, boolean fallback) {
        return has(key) ? typed(key, Boolean.class) : fallback;
    }

    /** A whole number of 0 or more; {@code fallback} where the key is absent or null. */
    int count(String key, int fallback) {
        if (!has(key)) {
            return fallback;
        }
        double value = typed(key, Double.class);
        if (value != (int) value || value < 0) {
            throw new EdgeLmException(label(key) + " is " + value, "a whole number from 0 on");
        }
        return (int) value;
    }

    /** A list of objects; empty where the key is absent or null. */
    List<Fields> objects(String key) {
        List<Fields> found = new ArrayList<>();
        for (Object value : list(key)) {
            found.add(of(value, label(key)));
        }
        return found;
    }

    /** A list of whole numbers from 1 on, such as a shape. */
    int[] sizes(String key) {
        List<?> list = list(key);
        int[] sizes = new int[list.size()];
        for (int i = 0; i < sizes.length; i++) {
            Object value = list.get(i);
            if (!(value instanceof Double) || (Double) value != ((Double) value).intValue() || (Double) value < 1) {
                throw new EdgeLmException(label(key) + " holds " + value, "whole numbers from 1 on");
            }
            sizes[i] = ((Double) value).intValue();
        }
        return sizes;
    }

    private List<?> list(String key) {
        return has(key) ? typed(key, List.class) : Collections.emptyList();
    }

    private <T> T typed(String key, Class<T> type) {
        Object value = values.get(key);
        if (!type.isInstance(value)) {
            String met = value instanceof Map || value instanceof List ? "a container" : String.valueOf(value);
            throw new EdgeLmException(label(key) + " is " + met, "a JSON value of type " + type.getSimpleName());
        }
        return type.cast(value);
    }

    private String label(String key) {
        return name + ": " + key;
    }
}
