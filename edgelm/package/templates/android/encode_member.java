    /**
     * Token ids of a text.
     *
     * @param text any text
     * @return ids, each 0 to {@link #VOCABULARY} - 1
     */
    public int[] encode(String text) {
        return tokenizer.encode(text);
    }
