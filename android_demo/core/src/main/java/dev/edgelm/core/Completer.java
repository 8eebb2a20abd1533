package dev.edgelm.core;

import java.nio.FloatBuffer;

/** Continues a text, as {@code edgelm.runtime.predict.complete} does. Not thread-safe. */
public final class Completer {
    /** Tokens the repetition penalty looks back on. */
    private static final int RECENT = 64;

    private final Session session;
    private final Tokenizer tokenizer;
    private final Sampler sampler;
    private final IntList ids = new IntList();

    /**
     * A completer.
     *
     * @param session of a model; each completion resets it
     * @param tokenizer of the same model
     */
    public Completer(Session session, Tokenizer tokenizer) {
        this.session = session;
        this.tokenizer = tokenizer;
        this.sampler = new Sampler(session.vocabSize());
    }

    /**
     * Continues a text until {@code maxTokens} tokens, a boundary, or the sink's false. When the context is full, its last half is read
     * again and writing goes on.
     *
     * @param text the beginning
     * @param maxTokens tokens to add at most
     * @param settings how each token is chosen; equal seeds give equal texts
     * @param sink takes whole characters while they are written; one that spans several tokens comes with the last of them
     * @return tokens written
     * @throws EdgeLmException the runtime failed
     */
    public int complete(String text, int maxTokens, SamplingSettings settings, TextSink sink) {
        Pcg64 random = new Pcg64(settings.seed);
        Utf8Decoder decoder = new Utf8Decoder();
        session.reset();
        Prompt.fill(session, tokenizer, text, 1, ids);
        FloatBuffer logits = session.prefill(ids.array(), 0, ids.size());
        int written = 0;
        boolean going = true;
        while (going && written < maxTokens) {
            int token = next(logits, settings, random);
            if (tokenizer.isSpecial(token) || token == tokenizer.boundaryId()) {
                break;
            }
            ids.add(token);
            written++;
            String part = decoder.add(tokenizer.pieceBytes(token));
            going = part.isEmpty() || sink.write(part);
            if (going && written < maxTokens) {
                logits = advance(token);
            }
        }
        String rest = decoder.end();
        if (going && !rest.isEmpty()) {
            sink.write(rest);
        }
        return written;
    }

    /** Chooses a token, but neither the unknown one nor a row without a token. */
    private int next(FloatBuffer logits, SamplingSettings settings, Pcg64 random) {
        sampler.load(logits);
        for (int id = tokenizer.vocabSize(); id < session.vocabSize(); id++) {
            sampler.forbid(id);
        }
        if (tokenizer.unknownId() != Tokenizer.NONE) {
            sampler.forbid(tokenizer.unknownId());
        }
        double uniform = settings.temperature == 0 ? 0 : random.nextDouble();
        return sampler.choose(settings, uniform, ids.array(), Math.max(0, ids.size() - RECENT), ids.size());
    }

    private FloatBuffer advance(int token) {
        if (session.position() < session.maxPositions()) {
            return session.step(token);
        }
        session.reset();
        return session.prefill(ids.array(), ids.size() - Math.max(1, session.maxPositions() / 2), ids.size());
    }
}
