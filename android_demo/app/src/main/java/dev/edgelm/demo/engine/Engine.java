package dev.edgelm.demo.engine;

import dev.edgelm.core.Artifact;
import dev.edgelm.core.Completer;
import dev.edgelm.core.ModelRunner;
import dev.edgelm.core.Session;
import dev.edgelm.core.Suggester;
import dev.edgelm.demo.litert.LiteRtRunner;
import java.nio.ByteBuffer;

/** An opened model. Not thread-safe: {@link EngineHost} uses it on its one thread. */
public final class Engine implements AutoCloseable {
    private final Artifact artifact;
    private final ModelRunner runner;
    private final Session session;
    private final double loadMs;
    private Suggester suggester;

    private Engine(Artifact artifact, ModelRunner runner, Session session, double loadMs) {
        this.artifact = artifact;
        this.runner = runner;
        this.session = session;
        this.loadMs = loadMs;
    }

    /**
     * Opens a model.
     *
     * @param file the whole .tflite, mapped
     * @param threads of the runtime
     * @return the engine
     * @throws dev.edgelm.core.EdgeLmException the file is no artifact of edgelm's, or the runtime refuses it
     */
    public static Engine open(ByteBuffer file, int threads) {
        long start = System.nanoTime();
        Artifact artifact = Artifact.open(file);
        ModelRunner runner = LiteRtRunner.open(artifact.model(), threads);
        try {
            Session session = Session.open(artifact.manifest(), runner);
            return new Engine(artifact, runner, session, (System.nanoTime() - start) / 1e6);
        } catch (RuntimeException failed) {
            runner.close();
            throw failed;
        }
    }

    /**
     * The file's content.
     *
     * @return manifest, tokenizer, checksum
     */
    public Artifact artifact() {
        return artifact;
    }

    /**
     * The session that suggestions, completions and benchmarks share.
     *
     * @return at any position
     */
    public Session session() {
        suggester = null; // it counts on being the session's only user
        return session;
    }

    /**
     * Suggests next words; keeps what it has read of a text, so that each further character costs little.
     *
     * @return the engine's one suggester, until {@link #session()} or {@link #completer()} is used
     */
    public Suggester suggester() {
        if (suggester == null) {
            session.reset();
            suggester = new Suggester(session, artifact.tokenizer());
        }
        return suggester;
    }

    /**
     * Completes texts.
     *
     * @return a new completer at the start of a text
     */
    public Completer completer() {
        session().reset();
        return new Completer(session, artifact.tokenizer());
    }

    /**
     * How long opening took.
     *
     * @return ms, from the mapped file to a session
     */
    public double loadMs() {
        return loadMs;
    }

    @Override
    public void close() {
        runner.close();
    }
}
