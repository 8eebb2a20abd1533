package dev.edgelm.core;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.IntBuffer;
import java.util.Arrays;
import java.util.Map;

/**
 * A model in the middle of a text.
 *
 * <p>{@link #step} and {@link #prefill} allocate nothing: states and caches stay in the runtime's own memory. Logits are a view of it
 * as well: they hold until the next call, copy them to keep them.
 *
 * <pre>{@code
 * Session session = Session.open(artifact.manifest(), runner);
 * FloatBuffer logits = session.prefill(tokenizer.encode("see you")); // vocabSize() scores of the next token
 * }</pre>
 *
 * Not thread-safe.
 */
public abstract class Session {
    /** What {@link #maxPositions()} gives for a model that can take any number of tokens. */
    public static final int UNLIMITED = Integer.MAX_VALUE;

    /** The state of a session as a value, for {@link Session#restore}. It belongs to the session that gave it. */
    public abstract static class Snapshot {
        final int position;

        Snapshot(int position) {
            this.position = position;
        }

        /**
         * Where it was taken.
         *
         * @return tokens before it
         */
        public final int position() {
            return position;
        }
    }

    private final int vocabSize;
    private final int maxPositions;
    int position;

    Session(int vocabSize, int maxPositions) {
        this.vocabSize = vocabSize;
        this.maxPositions = maxPositions;
    }

    /**
     * Opens the session that the signatures call for: a recurrent one for {@code step}, a transformer's for {@code decode_C}.
     *
     * @param manifest of the artifact
     * @param runner the same artifact, loaded
     * @return a session at the start of a text
     * @throws EdgeLmException the model has none of these signatures, or file and manifest disagree
     */
    public static Session open(Manifest manifest, ModelRunner runner) {
        Map<String, SignatureSpec> signatures = manifest.signatures();
        if (signatures.containsKey(RecurrentSession.STEP)) {
            return new RecurrentSession(signatures.get(RecurrentSession.STEP), runner);
        }
        for (String name : signatures.keySet()) {
            if (TransformerSession.DECODE.matcher(name).matches()) {
                return new TransformerSession(signatures, runner);
            }
        }
        throw new EdgeLmException(
                "the model has no signature this app can run (it has: " + String.join(", ", signatures.keySet()) + ")",
                "step, or decode_C with prefill_T",
                "convert a model that edgelm lifts: edgelm inspect MODEL",
                null);
    }

    /** Forgets everything: position 0. */
    public abstract void reset();

    /**
     * Takes one token.
     *
     * @param token its id
     * @return the logits of the next token: {@link #vocabSize()} floats from position 0, until the next call
     * @throws EdgeLmException the context is full, the id is outside of the vocabulary, or the runtime failed
     */
    public abstract FloatBuffer step(int token);

    /**
     * The state now.
     *
     * @return a copy, which stays good after {@link #reset}
     */
    public abstract Snapshot snapshot();

    /**
     * Goes back, or over, to where a snapshot was taken.
     *
     * @param snapshot of this session
     * @throws EdgeLmException it is another session's
     */
    public abstract void restore(Snapshot snapshot);

    /**
     * The signature that ran last.
     *
     * @return such as {@code step}, {@code decode_128}, {@code prefill_64}; empty before the first call
     */
    public abstract String signature();

    /**
     * Takes several tokens, in larger calls where the model has them.
     *
     * @param tokens their ids, at least one
     * @return the logits after the last one, until the next call
     * @throws EdgeLmException they don't fit, in which case none was taken; there are none; an id is outside of the vocabulary
     */
    public final FloatBuffer prefill(int[] tokens) {
        return prefill(tokens, 0, tokens.length);
    }

    /**
     * Takes some of an array of tokens; see {@link #prefill(int[])}.
     *
     * @param tokens ids
     * @param from index of the first one taken
     * @param to index behind the last one taken
     * @return the logits after the last one, until the next call
     * @throws EdgeLmException see {@link #prefill(int[])}
     */
    public final FloatBuffer prefill(int[] tokens, int from, int to) {
        if (from < 0 || from >= to || to > tokens.length) {
            throw new EdgeLmException("no tokens were given", "at least one token id");
        }
        for (int i = from; i < to; i++) {
            check(tokens[i]);
        }
        if (to - from > maxPositions - position) {
            throw full(to - from);
        }
        return take(tokens, from, to);
    }

    /**
     * Columns of the logits.
     *
     * @return the rows of the embedding, padding included
     */
    public final int vocabSize() {
        return vocabSize;
    }

    /**
     * Tokens the session can take before it is full.
     *
     * @return {@link #UNLIMITED} for recurrent models
     */
    public final int maxPositions() {
        return maxPositions;
    }

    /**
     * Tokens taken since the last reset.
     *
     * @return 0 to {@link #maxPositions()}
     */
    public final int position() {
        return position;
    }

    /** Whether several tokens are taken in calls of their own. */
    boolean prefills() {
        return false;
    }

    /** Takes tokens that have been checked. */
    FloatBuffer take(int[] tokens, int from, int to) {
        FloatBuffer logits = step(tokens[from]);
        for (int i = from + 1; i < to; i++) {
            logits = step(tokens[i]);
        }
        return logits;
    }

    final void check(int token) {
        if (token < 0 || token >= vocabSize) {
            throw new EdgeLmException("token id " + token + " is outside of the vocabulary", "0 to " + (vocabSize - 1));
        }
    }

    final EdgeLmException full(int wanted) {
        return new EdgeLmException(
                "the context is full: it holds " + maxPositions + " tokens, " + position + " are taken, " + wanted + " more were given",
                maxPositions + " tokens",
                "reset the session and prefill the last part of the text, or convert with a longer context",
                null);
    }

    /** The memory of an input or output as the manifest describes it. */
    static ByteBuffer memory(Signature signature, String name, TensorSpec spec, String dtype, boolean input) {
        if (spec == null || !spec.dtype().equals(dtype)) {
            throw new EdgeLmException("tensor " + name + " is " + (spec == null ? "not there" : spec.dtype()), dtype);
        }
        if (input && !Arrays.equals(signature.inputShape(name), spec.shape())) {
            throw disagreement(name, spec + " in the manifest, " + Arrays.toString(signature.inputShape(name)) + " in the file");
        }
        ByteBuffer memory = input ? signature.input(name) : signature.output(name);
        if (memory.capacity() != spec.bytes()) {
            throw disagreement(name, spec + " in the manifest, " + memory.capacity() + " bytes in the file");
        }
        return memory.duplicate().order(ByteOrder.nativeOrder());
    }

    static FloatBuffer floats(Signature signature, String name, TensorSpec spec, boolean input) {
        return memory(signature, name, spec, "float32", input).asFloatBuffer();
    }

    static IntBuffer ints(Signature signature, String name, TensorSpec spec) {
        return memory(signature, name, spec, "int32", true).asIntBuffer();
    }

    private static EdgeLmException disagreement(String name, String sizes) {
        return new EdgeLmException("manifest and model disagree: tensor " + name + " is " + sizes, "", "convert the model again", null);
    }
}
