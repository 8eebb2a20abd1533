package dev.edgelm.core;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** Spells next words piece by piece, keeping the likeliest beginnings. */
final class WordBeam {
    /** Pieces a suggested word has at most; English words of a 10,000-piece vocabulary have fewer than 6. */
    static final int LONGEST_WORD = 12;

    /** Unfinished words kept for each word asked for. */
    private static final int BEAM = 3;

    private static final Comparator<Suggestion> LIKELIEST =
            Comparator.comparingDouble(Suggestion::probability).reversed().thenComparing(Suggestion::text);

    /** The beginning of a word, the session's state before its last piece, and its probability. */
    private static final class Unfinished {
        final double probability;
        final int[] ids;
        final Session.Snapshot before;

        Unfinished(double probability, int[] ids, Session.Snapshot before) {
            this.probability = probability;
            this.ids = ids;
            this.before = before;
        }
    }

    private final Session session;
    private final Tokenizer tokenizer;
    private final WordPieces pieces;
    private final Sampler ranking;
    private final double[] mass;
    private final double[] chosen;

    WordBeam(Session session, Tokenizer tokenizer, WordPieces pieces, Sampler ranking) {
        this.session = session;
        this.tokenizer = tokenizer;
        this.pieces = pieces;
        this.ranking = ranking;
        mass = new double[session.vocabSize()];
        chosen = new double[session.vocabSize()];
    }

    /**
     * The n likeliest words; the session comes back to where it was.
     *
     * @param first probabilities of the tokens behind the text
     */
    List<Suggestion> words(double[] first, int n) {
        Map<String, Double> words = new HashMap<>();
        Session.Snapshot here = session.snapshot();
        List<Unfinished> beam = new ArrayList<>();
        pieces.keepStarts(first, chosen);
        grow(new int[0], here, BEAM * n, beam);
        int most = Math.min(LONGEST_WORD, session.maxPositions() - session.position());
        for (int length = 0; length < most && !beam.isEmpty(); length++) {
            beam = lengthen(beam, words, n);
        }
        session.restore(here);
        List<Suggestion> best = sorted(words);
        return Collections.unmodifiableList(best.subList(0, Math.min(n, best.size())));
    }

    /** Takes each beginning's last piece, notes the word it would be, and gives the likeliest longer beginnings. */
    private List<Unfinished> lengthen(List<Unfinished> beam, Map<String, Double> words, int n) {
        double least = words.size() < n ? 0 : sorted(words).get(n - 1).probability();
        List<Unfinished> grown = new ArrayList<>();
        for (Unfinished word : beam) {
            if (word.probability <= least) {
                continue; // a word only loses probability as it grows
            }
            session.restore(word.before);
            Sampler.softmax(session.step(word.ids[word.ids.length - 1]), mass);
            for (int id = 0; id < mass.length; id++) {
                mass[id] *= word.probability;
            }
            String text = textOf(word.ids);
            if (!text.isEmpty()) {
                words.merge(text, pieces.endMass(mass), Double::sum);
            }
            pieces.keepContinuations(mass, chosen);
            grow(word.ids, session.snapshot(), BEAM * n, grown);
        }
        grown.sort(Comparator.comparingDouble((Unfinished word) -> word.probability).reversed());
        return new ArrayList<>(grown.subList(0, Math.min(BEAM * n, grown.size())));
    }

    /** Adds the beginnings that the likeliest of the chosen tokens make. */
    private void grow(int[] ids, Session.Snapshot before, int count, List<Unfinished> target) {
        int found = ranking.rank(chosen, count);
        for (int place = 0; place < found; place++) {
            int id = ranking.ranked(place);
            if (chosen[id] > 0) {
                int[] longer = Arrays.copyOf(ids, ids.length + 1);
                longer[ids.length] = id;
                target.add(new Unfinished(chosen[id], longer, before));
            }
        }
    }

    private String textOf(int[] ids) {
        Utf8Decoder decoder = new Utf8Decoder();
        StringBuilder text = new StringBuilder();
        for (int id : ids) {
            text.append(decoder.add(tokenizer.pieceBytes(id)));
        }
        return CodePoints.stripped(text.append(decoder.end()).toString(), true);
    }

    private static List<Suggestion> sorted(Map<String, Double> words) {
        List<Suggestion> sorted = new ArrayList<>();
        for (Map.Entry<String, Double> word : words.entrySet()) {
            sorted.add(new Suggestion(word.getKey(), word.getValue()));
        }
        sorted.sort(LIKELIEST);
        return sorted;
    }
}
