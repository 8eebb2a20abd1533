package dev.edgelm.core;

import java.util.Arrays;

/** Token ids that grow in number. */
final class IntList {
    private int[] values = new int[64];
    private int size;

    /** The array behind the list; its first {@link #size()} values count, until the next {@code add}. */
    int[] array() {
        return values;
    }

    int size() {
        return size;
    }

    int get(int index) {
        return values[index];
    }

    void clear() {
        size = 0;
    }

    void add(int value) {
        if (size == values.length) {
            values = Arrays.copyOf(values, 2 * size);
        }
        values[size++] = value;
    }

    void add(int[] more) {
        for (int value : more) {
            add(value);
        }
    }

    int[] toArray() {
        return Arrays.copyOf(values, size);
    }
}
