package dev.edgelm.core;

/** The last step of a tokenizer: the ids of a part of a text. */
interface TokenModel {
    /**
     * Adds the ids of {@code text} from {@code start} to {@code end}, which is not empty, to {@code ids}.
     *
     * @throws EdgeLmException it has characters without a piece, and there is no unknown token
     */
    void encode(CharSequence text, int start, int end, IntList ids);
}
