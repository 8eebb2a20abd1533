package dev.edgelm.core;

/** A rule that cuts a text into the parts within which tokens are looked for. */
interface PreTokenizer {
    /**
     * Cuts {@code text} from {@code start} to {@code end}, which is not empty.
     *
     * @param first whether it is the beginning of the whole text
     * @param sink takes the parts, none of them empty
     */
    void split(CharSequence text, int start, int end, boolean first, PieceSink sink);
}
