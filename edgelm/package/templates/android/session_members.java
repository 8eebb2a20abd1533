    /**
     * Takes one token, after those taken since {@link #reset()}@OTHERS@.
     *
     * @param token 0 to {@link #VOCABULARY} - 1
     * @return logits of the next token, a view that holds until the next call
     * @throws EdgeLmException the id is outside of the vocabulary, or the context is full
     */
    public FloatBuffer step(int token) {
@USES_SESSION@        return session.step(token);
    }

    /**
     * Takes several tokens, faster than one by one where the model can.
     *
     * @param tokens at least one
     * @return logits of the token after them, a view that holds until the next call
     * @throws EdgeLmException an id is outside of the vocabulary, or they don't fit into the context
     */
    public FloatBuffer prefill(int[] tokens) {
@USES_SESSION@        return session.prefill(tokens);
    }

    /** Forgets the text. */
    public void reset() {
@USES_SESSION@        session.reset();
    }
