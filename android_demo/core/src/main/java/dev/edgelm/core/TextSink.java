package dev.edgelm.core;

/** Receives a text while it is written. */
public interface TextSink {
    /**
     * Takes the next part.
     *
     * @param text one or more whole characters
     * @return whether to go on; false ends the completion
     */
    boolean write(String text);
}
