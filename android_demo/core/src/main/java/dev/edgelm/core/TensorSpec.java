package dev.edgelm.core;

import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;

/** Element type and shape of an input or output, as the manifest states them. */
public final class TensorSpec {
    private static final Map<String, Integer> ELEMENT_BYTES = new HashMap<>();

    static {
        ELEMENT_BYTES.put("float32", 4);
        ELEMENT_BYTES.put("int32", 4);
        ELEMENT_BYTES.put("int64", 8);
        ELEMENT_BYTES.put("int8", 1);
    }

    private final String dtype;
    private final int[] shape;

    TensorSpec(String dtype, int[] shape, String name) {
        if (!ELEMENT_BYTES.containsKey(dtype)) {
            throw new EdgeLmException("tensor " + name + " has elements of type " + dtype, "float32, int32, int64, int8");
        }
        this.dtype = dtype;
        this.shape = shape;
        if (bytes() > Integer.MAX_VALUE) {
            throw new EdgeLmException("tensor " + name + " is larger than 2 GiB: " + Arrays.toString(shape));
        }
    }

    /**
     * The element type.
     *
     * @return {@code float32}, {@code int32}, {@code int64} or {@code int8}
     */
    public String dtype() {
        return dtype;
    }

    /**
     * The shape.
     *
     * @return sizes, outermost first; a copy
     */
    public int[] shape() {
        return shape.clone();
    }

    /**
     * The number of elements.
     *
     * @return the product of the sizes
     */
    public long elements() {
        long product = 1;
        for (int size : shape) {
            product = Math.min(product * size, Integer.MAX_VALUE * 8L);
        }
        return product;
    }

    /**
     * The memory it takes.
     *
     * @return bytes
     */
    public long bytes() {
        return elements() * ELEMENT_BYTES.get(dtype);
    }

    int size(int axis) {
        return shape[axis];
    }

    int rank() {
        return shape.length;
    }

    @Override
    public String toString() {
        return dtype + " " + Arrays.toString(shape);
    }
}
