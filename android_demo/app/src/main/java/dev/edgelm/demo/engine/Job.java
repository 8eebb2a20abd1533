package dev.edgelm.demo.engine;

/**
 * Work for the engine that goes on while its screen is rotated. Its methods are for the main thread, but {@link #isStopped}.
 *
 * @param <J> the job itself, as its screen sees it
 */
public abstract class Job<J extends Job<J>> {
    private volatile boolean stopped;
    private Watcher<J> watcher;
    private String error = "";

    /**
     * The screen that shows a job at present.
     *
     * @param <J> the job
     */
    public interface Watcher<J> {
        /**
         * Something of the job has changed.
         *
         * @param job to show
         */
        void changed(J job);
    }

    /** Hands the work to the engine. */
    public abstract void start();

    /**
     * Whether it is over.
     *
     * @return true after its end, good or bad
     */
    public abstract boolean ended();

    /**
     * This job.
     *
     * @return this
     */
    protected abstract J self();

    /** Ends the work early. */
    public final void stop() {
        stopped = true;
    }

    /**
     * Shows the job on another screen, or on none.
     *
     * @param other the screen; null for none
     */
    public final void watch(Watcher<J> other) {
        watcher = other;
        changed();
    }

    /**
     * Why it failed.
     *
     * @return words for the user; empty when it did not
     */
    public final String error() {
        return error;
    }

    /**
     * Whether it is to end early; for the worker thread.
     *
     * @return true after {@link #stop}
     */
    protected final boolean isStopped() {
        return stopped;
    }

    /**
     * Ends it as failed.
     *
     * @param words why, for the user
     */
    public void failed(String words) {
        error = words;
        changed();
    }

    /** Tells the screen. */
    protected final void changed() {
        if (watcher != null) {
            watcher.changed(self());
        }
    }
}
