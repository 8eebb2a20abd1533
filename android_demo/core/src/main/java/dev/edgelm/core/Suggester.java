package dev.edgelm.core;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/**
 * The likeliest next words of a text, as {@code edgelm.runtime.predict.suggest} finds them.
 *
 * <p>A word-level model is asked once. Other models spell: a beam of unfinished words is extended piece by piece, and a word's
 * probability is that of its pieces times that of a word end behind them.
 *
 * <p>While a text only grows, only its new tokens are computed. Not thread-safe.
 */
public final class Suggester {
    private final Session session;
    private final Tokenizer tokenizer;
    private final boolean wordLevel;
    private final WordPieces pieces;
    private final Sampler ranking;
    private final double[] mass; // of the tokens behind the text
    private final double[] chosen; // some of them, 0 elsewhere
    private final WordBeam beam;
    private IntList taken = new IntList(); // what the session has read
    private IntList wanted = new IntList();

    /**
     * A suggester.
     *
     * @param session of a model; nobody else may use it meanwhile, or {@link #reset} is called afterwards
     * @param tokenizer of the same model
     */
    public Suggester(Session session, Tokenizer tokenizer) {
        this.session = session;
        this.tokenizer = tokenizer;
        wordLevel = tokenizer.kind().equals("word");
        pieces = new WordPieces(tokenizer, session.vocabSize());
        ranking = new Sampler(session.vocabSize());
        mass = new double[session.vocabSize()];
        chosen = new double[session.vocabSize()];
        beam = new WordBeam(session, tokenizer, pieces, ranking);
        session.reset();
    }

    /** Forgets the text; to be called after somebody else used the session. */
    public void reset() {
        session.reset();
        taken.clear();
    }

    /**
     * The n likeliest next words, likeliest first; fewer when the model knows fewer. The session stands behind the text afterwards.
     *
     * @param text what was written so far; white space at its end does not count, its last half where it is longer than the context
     * @param n words wanted, at least 1
     * @return the words
     * @throws EdgeLmException n is less than 1, or the runtime failed
     */
    public List<Suggestion> suggest(String text, int n) {
        if (n < 1) {
            throw new EdgeLmException(n + " suggestions are wanted", "1 or more");
        }
        Prompt.fill(session, tokenizer, CodePoints.stripped(text, false), wordLevel ? 0 : WordBeam.LONGEST_WORD, wanted);
        read();
        if (!wordLevel) {
            return beam.words(mass, n);
        }
        pieces.keepStarts(mass, chosen);
        List<Suggestion> words = new ArrayList<>();
        int count = ranking.rank(chosen, n);
        for (int place = 0; place < count; place++) {
            int id = ranking.ranked(place);
            if (chosen[id] > 0) {
                words.add(new Suggestion(CodePoints.stripped(tokenizer.piece(id), true), chosen[id]));
            }
        }
        return Collections.unmodifiableList(words);
    }

    /** Brings the session behind the wanted ids. */
    private void read() {
        int known = taken.size();
        boolean grows = known <= wanted.size() && known == session.position();
        for (int i = 0; grows && i < known; i++) {
            grows = taken.get(i) == wanted.get(i);
        }
        if (!grows) {
            session.reset();
            known = 0;
        }
        taken.clear(); // a failure in between leaves nothing known
        if (known < wanted.size()) {
            Sampler.softmax(session.prefill(wanted.array(), known, wanted.size()), mass);
        }
        IntList read = wanted;
        wanted = taken;
        taken = read;
    }
}
