package dev.edgelm.core;

import java.nio.FloatBuffer;
import java.nio.IntBuffer;
import java.util.ArrayList;
import java.util.List;

/**
 * One signature of a transformer with its caches, which are laid out by time: [1, heads, slots, head_dim], or [1, heads, head_dim,
 * slots] where a cache is transposed.
 *
 * <p>A call gives only the new rows; they are copied to their slot.
 */
final class CacheStage {
    /** Added to the score of an empty slot; its weight is exactly 0 after the softmax. */
    static final float MASKED = -1e9f;

    /** What all signatures of a model have in common. */
    static final class Layout {
        final int vocabSize;
        final String[] cacheNames;
        final int[] timeAxes;

        /**
         * A layout.
         *
         * @param vocabSize columns of the logits
         * @param decode a signature of one token a call, which shows the axis that counts slots
         */
        Layout(int vocabSize, SignatureSpec decode) {
            this.vocabSize = vocabSize;
            List<String> names = new ArrayList<>(decode.outputs().keySet());
            names.remove("logits");
            cacheNames = names.toArray(new String[0]);
            timeAxes = new int[cacheNames.length];
            for (int i = 0; i < timeAxes.length; i++) {
                timeAxes[i] = timeAxis(decode.inputs().get(cacheNames[i]), decode.outputs().get(cacheNames[i]), cacheNames[i]);
            }
        }

        /** The axis on which a cache is longer than the row of one token. */
        private static int timeAxis(TensorSpec cache, TensorSpec row, String name) {
            for (int axis = 2; axis < 4; axis++) {
                if (cache != null && cache.rank() == 4 && row.rank() == 4 && cache.size(axis) != row.size(axis)) {
                    return axis;
                }
            }
            throw new EdgeLmException("cache " + name + " is " + cache + " with rows " + row);
        }
    }

    /** One cache: its memory, the new rows, and how both are laid out. */
    private static final class Cache {
        final FloatBuffer slots;
        final FloatBuffer rows;
        final int outer; // axes before time: heads, or heads x head_dim where transposed
        final int inner; // axes behind time: head_dim, or 1
        final int slotCount;
        final int rowCount;

        Cache(FloatBuffer slots, FloatBuffer rows, TensorSpec cache, TensorSpec row, int timeAxis) {
            this.slots = slots;
            this.rows = rows;
            slotCount = cache.size(timeAxis);
            rowCount = row.size(timeAxis);
            outer = timeAxis == 2 ? cache.size(1) : cache.size(1) * cache.size(2);
            inner = timeAxis == 2 ? cache.size(3) : 1;
        }
    }

    final String name;
    final int slots;
    final int tokensPerCall;
    final boolean decodes;
    private final Signature signature;
    private final Cache[] caches;
    private final FloatBuffer mask;
    private final IntBuffer tokens;
    private final IntBuffer position;
    private final IntBuffer last; // null for decode signatures
    private final FloatBuffer logits;

    /**
     * Allocates the signature.
     *
     * @param layout what all signatures of the model have in common
     */
    CacheStage(String name, SignatureSpec spec, ModelRunner runner, Layout layout) {
        this.name = name;
        signature = runner.signature(name);
        decodes = spec.inputs().containsKey("token");
        String input = decodes ? "token" : "tokens";
        tokens = Session.ints(signature, input, spec.inputs().get(input));
        tokensPerCall = tokens.capacity();
        position = Session.ints(signature, "position", spec.inputs().get("position"));
        last = decodes ? null : Session.ints(signature, "last", spec.inputs().get("last"));
        mask = Session.floats(signature, "mask", spec.inputs().get("mask"), true);
        logits = Session.floats(signature, "logits", spec.outputs().get("logits"), false);
        slots = mask.capacity();
        if (logits.capacity() != layout.vocabSize) {
            throw new EdgeLmException("signature " + name + " gives " + logits.capacity() + " logits", layout.vocabSize + " as the others");
        }
        caches = new Cache[layout.cacheNames.length];
        for (int i = 0; i < caches.length; i++) {
            caches[i] = cache(layout.cacheNames[i], spec, layout.timeAxes[i]);
        }
        showSlots(0);
    }

    /** Makes the first slots visible and hides the others. */
    void showSlots(int count) {
        for (int i = 0; i < slots; i++) {
            mask.put(i, i < count ? 0 : MASKED);
        }
    }

    /** Runs one token at a position and keeps its rows there. */
    FloatBuffer decode(int token, int at) {
        tokens.put(0, token);
        position.put(0, at);
        return run(at, 1);
    }

    /** Runs some tokens from a position on and keeps their rows; what is left of the call is padding. */
    FloatBuffer prefill(int[] ids, int from, int count, int at) {
        for (int i = 0; i < tokensPerCall; i++) {
            tokens.put(i, i < count ? ids[from + i] : 0);
        }
        position.put(0, at);
        last.put(0, count - 1);
        return run(at, count);
    }

    /** Takes over the first slots of another stage. */
    void copyFrom(CacheStage other, int count) {
        for (int i = 0; i < caches.length; i++) {
            Cache cache = caches[i];
            Cache source = other.caches[i];
            copy(source.slots, source.slotCount, 0, cache.slots, cache.slotCount, 0, count, cache);
        }
        showSlots(count);
    }

    /** Copies of the slots from one position to another, per cache as (outer, slots, inner). */
    float[][] read(int from, int to) {
        float[][] rows = new float[caches.length][];
        for (int i = 0; i < rows.length; i++) {
            Cache cache = caches[i];
            rows[i] = new float[cache.outer * (to - from) * cache.inner];
            FloatBuffer target = FloatBuffer.wrap(rows[i]);
            copy(cache.slots, cache.slotCount, from, target, to - from, 0, to - from, cache);
        }
        return rows;
    }

    /** Writes what {@link #read} gave. */
    void write(float[][] rows, int from, int to) {
        for (int i = 0; i < caches.length; i++) {
            Cache cache = caches[i];
            copy(FloatBuffer.wrap(rows[i]), to - from, 0, cache.slots, cache.slotCount, from, to - from, cache);
        }
    }

    private FloatBuffer run(int at, int count) {
        signature.run();
        for (Cache cache : caches) {
            copy(cache.rows, cache.rowCount, 0, cache.slots, cache.slotCount, at, count, cache);
        }
        for (int i = at; i < at + count; i++) {
            mask.put(i, 0);
        }
        logits.clear();
        return logits;
    }

    /** Copies {@code count} rows between two buffers of (outer, time, inner) with different lengths of time. */
    private static void copy(
            FloatBuffer source, int sourceTime, int from, FloatBuffer target, int targetTime, int to, int count, Cache layout) {
        int run = count * layout.inner;
        for (int i = 0; i < layout.outer; i++) {
            int read = (i * sourceTime + from) * layout.inner;
            int written = (i * targetTime + to) * layout.inner;
            if (run == 1) {
                target.put(written, source.get(read));
            } else {
                source.limit(read + run).position(read);
                target.limit(written + run).position(written);
                target.put(source);
                source.clear();
                target.clear();
            }
        }
    }

    private Cache cache(String cacheName, SignatureSpec spec, int timeAxis) {
        TensorSpec held = spec.inputs().get(cacheName);
        TensorSpec row = spec.outputs().get(cacheName);
        FloatBuffer memory = Session.floats(signature, cacheName, held, true);
        FloatBuffer rows = Session.floats(signature, cacheName, row, false);
        boolean fits = held.rank() == 4 && row.rank() == 4 && held.size(timeAxis) == slots && row.size(timeAxis) == tokensPerCall;
        for (int axis = 0; fits && axis < 4; axis++) {
            fits = axis == timeAxis || held.size(axis) == row.size(axis);
        }
        if (!fits) {
            throw new EdgeLmException("cache " + cacheName + " of signature " + name + " is " + held + " with rows " + row);
        }
        return new Cache(memory, rows, held, row, timeAxis);
    }
}
