package dev.edgelm.demo.engine;

import android.os.Handler;
import android.os.Looper;
import dev.edgelm.core.EdgeLmException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/** Runs the chosen model on one background thread, whatever screens come and go. */
public final class EngineHost {
    private static final int THREADS = 1; // one token is too little work to share among cores

    private final ModelStore models;
    private final ExecutorService worker = Executors.newSingleThreadExecutor();
    private final Handler main = new Handler(Looper.getMainLooper());
    private Engine engine; // touched by the worker only
    private String opened = "";

    /**
     * A host without a model; the first task opens it.
     *
     * @param models to choose from
     */
    public EngineHost(ModelStore models) {
        this.models = models;
    }

    /**
     * Something to do with the chosen model.
     *
     * @param <T> what it gives
     */
    public interface Task<T> {
        /**
         * Runs on the worker thread.
         *
         * @param engine the chosen model
         * @return the result, handed to {@link Listener#done} on the main thread
         * @throws IOException a file could not be read or written
         */
        T run(Engine engine) throws IOException;
    }

    /**
     * Something to do while no other model is open.
     *
     * @param <T> what it gives
     */
    public interface ExclusiveTask<T> {
        /**
         * Runs on the worker thread.
         *
         * @return the result, handed to {@link Listener#done} on the main thread
         * @throws IOException a file could not be read or written
         */
        T run() throws IOException;
    }

    /**
     * Hears how a task ended, on the main thread.
     *
     * @param <T> what the task gives
     */
    public interface Listener<T> {
        /**
         * It succeeded.
         *
         * @param result what the task gave
         */
        void done(T result);

        /**
         * It failed.
         *
         * @param words what went wrong and what to do, for the user
         */
        void failed(String words);
    }

    /**
     * Runs a task with the chosen model, after those submitted before it.
     *
     * @param <T> what it gives
     * @param task to run
     * @param listener hears the end
     */
    public <T> void submit(Task<T> task, Listener<T> listener) {
        execute(() -> task.run(current()), listener);
    }

    /**
     * Runs a task with no model open, after those submitted before it.
     *
     * @param <T> what it gives
     * @param task to run
     * @param listener hears the end
     */
    public <T> void submitExclusive(ExclusiveTask<T> task, Listener<T> listener) {
        execute(
                () -> {
                    close();
                    return task.run();
                },
                listener);
    }

    /** Frees the model when the tasks at hand are done. */
    public void release() {
        worker.execute(this::close);
    }

    /**
     * Posts to the main thread.
     *
     * @param action to run there
     */
    public void post(Runnable action) {
        main.post(action);
    }

    private <T> void execute(ExclusiveTask<T> task, Listener<T> listener) {
        worker.execute(() -> {
            try {
                T result = task.run();
                main.post(() -> listener.done(result));
            } catch (EdgeLmException error) {
                fail(listener, error.getMessage());
            } catch (IOException error) {
                fail(listener, "a file cannot be read or written: " + error.getMessage());
            } catch (OutOfMemoryError error) {
                close();
                fail(listener, "the phone has too little free memory for this model");
            }
        });
    }

    private void fail(Listener<?> listener, String words) {
        main.post(() -> listener.failed(words));
    }

    private Engine current() throws IOException {
        ModelFile chosen = models.chosen();
        String wanted = chosen.isAsset() + " " + chosen.name() + " " + chosen.bytes();
        if (!wanted.equals(opened)) {
            close();
            ByteBuffer file = models.map(chosen);
            engine = Engine.open(file, THREADS);
            opened = wanted;
        }
        return engine;
    }

    private void close() {
        if (engine != null) {
            engine.close();
            engine = null;
        }
        opened = "";
    }
}
