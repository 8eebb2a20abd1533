package dev.edgelm.core;

/** How a text is given to a session. */
final class Prompt {
    private Prompt() {}

    /**
     * The ids to prefill: the last half of the context where text and room exceed it.
     *
     * <p>A model must be told something: an empty text of a tokenizer without a start token becomes id 0.
     *
     * @param room positions to leave free
     * @param ids takes the ids; what it held is dropped
     */
    static void fill(Session session, Tokenizer tokenizer, String text, int room, IntList ids) {
        ids.clear();
        if (tokenizer.startId() != Tokenizer.NONE) {
            ids.add(tokenizer.startId());
        }
        ids.add(tokenizer.encode(text));
        int most = session.maxPositions();
        if (ids.size() > most - room) {
            int[] all = ids.toArray();
            ids.clear();
            for (int i = Math.max(0, all.length - Math.max(1, most / 2)); i < all.length; i++) {
                ids.add(all[i]);
            }
        }
        if (ids.size() == 0) {
            ids.add(0);
        }
    }
}
