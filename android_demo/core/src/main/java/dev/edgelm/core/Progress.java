package dev.edgelm.core;

/** Hears how far a long task is. */
public interface Progress {
    /**
     * Called after each unit of work.
     *
     * @param done units done
     * @param total units in all
     * @return whether to go on; false ends the task, which then gives what it has
     */
    boolean on(int done, int total);
}
