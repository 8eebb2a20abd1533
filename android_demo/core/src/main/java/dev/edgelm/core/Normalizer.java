package dev.edgelm.core;

/** A rule that changes a text before it is cut into tokens. */
interface Normalizer {
    /**
     * The changed text.
     *
     * @param text without lone surrogates
     */
    String apply(String text);
}
