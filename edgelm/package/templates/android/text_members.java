    /**
     * The likeliest next words. While a text only grows, only its new tokens are computed.
     *
     * @param text what was written so far
     * @param n words wanted
     * @return likeliest first; fewer when the model knows fewer
     */
    public List<Suggestion> suggest(String text, int n) {
        if (!suggesting) {
            suggester.reset();
            suggesting = true;
        }
        return suggester.suggest(text, n);
    }

    /**
     * Continues a text.
     *
     * @param text the beginning
     * @param maxTokens tokens to add at most
     * @param settings how each token is chosen; {@code SamplingSettings.GREEDY} for the likeliest
     * @param sink takes the text as it is written, and can stop it
     * @return tokens written
     */
    public int complete(String text, int maxTokens, SamplingSettings settings, TextSink sink) {
        suggesting = false;
        return completer.complete(text, maxTokens, settings, sink);
    }
