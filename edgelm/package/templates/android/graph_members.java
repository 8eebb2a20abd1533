    /**
     * Scores of the next token, by one run over the whole window. The model was converted as it is: it has no state to carry.
     *
     * @param tokens 1 to {@link #CONTEXT} ids; the rest of the window is padded with 0 on the @PADDED@
     * @return (VOCABULARY) scores as the model gives them, logits or probabilities: a view that holds until the next call
     * @throws EdgeLmException there are none or too many, or an id is outside of the vocabulary
     */
    public FloatBuffer next(int[] tokens) {
        if (tokens.length == 0 || tokens.length > CONTEXT) {
            throw new EdgeLmException(tokens.length + " tokens were given", "1 to " + CONTEXT);
        }
        int start = @START@;
        for (int i = 0; i < CONTEXT; i++) {
            int token = i >= start && i < start + tokens.length ? tokens[i - start] : 0;
            if (token < 0 || token >= VOCABULARY) {
                throw new EdgeLmException("token id " + token + " is outside of the vocabulary", "0 to " + (VOCABULARY - 1));
            }
            ids.put(i, token);
        }
        forward.run();
        FloatBuffer row = scores.duplicate();
        row.position(@ROW@);
        return row.slice();
    }
