package dev.edgelm.core;

/** A next word. */
public final class Suggestion {
    private final String text;
    private final double probability;

    /**
     * A word and how likely it is.
     *
     * @param text the word, without surrounding white space
     * @param probability of this word and its end, among all continuations; 0 to 1
     */
    public Suggestion(String text, double probability) {
        this.text = text;
        this.probability = probability;
    }

    /**
     * The word.
     *
     * @return without surrounding white space
     */
    public String text() {
        return text;
    }

    /**
     * How likely it is.
     *
     * @return 0 to 1, among all continuations
     */
    public double probability() {
        return probability;
    }

    @Override
    public String toString() {
        return text + " " + probability;
    }
}
