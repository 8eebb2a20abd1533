package dev.edgelm.core;

/** Takes the parts of a text that a pre-tokenizer cuts; what it is given holds until it returns. */
interface PieceSink {
    /** Takes {@code text} from {@code start} to {@code end}. */
    void accept(CharSequence text, int start, int end);
}
