package dev.edgelm.core;

import java.nio.FloatBuffer;

/**
 * Choosing the next token, defined exactly as {@code edgelm.runtime.sampling}: in double precision, sums from first to last, equal
 * scores by the lower id; repetition penalty, then temperature, top-k, softmax, top-p, draw.
 *
 * <p>A sampler keeps its arrays; nothing is allocated per token. Not thread-safe.
 */
public final class Sampler {
    private final double[] scores;
    private final double[] mass;
    private final int[] ids;
    private final boolean[] penalised;
    private int candidates;

    /**
     * A sampler.
     *
     * @param vocabSize columns of the logits
     */
    public Sampler(int vocabSize) {
        scores = new double[vocabSize];
        mass = new double[vocabSize];
        ids = new int[vocabSize];
        penalised = new boolean[vocabSize];
    }

    /**
     * Draws a token; the same generator state gives the same one.
     *
     * @param logits {@code vocabSize} floats from its position on, which stays; -infinity for tokens that must not be drawn
     * @param settings how to choose; greedy draws no random number
     * @param random source of one uniform number
     * @param recent ids the repetition penalty applies to
     * @param from index of the first one
     * @param to index behind the last one
     * @return the token id
     * @throws EdgeLmException the logits hold NaN
     */
    public int sample(FloatBuffer logits, SamplingSettings settings, Pcg64 random, int[] recent, int from, int to) {
        load(logits);
        return choose(settings, settings.temperature == 0 ? 0 : random.nextDouble(), recent, from, to);
    }

    /** Takes the logits; {@link #forbid} may follow, then {@link #choose}. */
    void load(FloatBuffer logits) {
        int start = logits.position();
        for (int id = 0; id < scores.length; id++) {
            scores[id] = logits.get(start + id);
        }
    }

    /** Makes a token impossible. */
    void forbid(int id) {
        scores[id] = Double.NEGATIVE_INFINITY;
    }

    /** The token a uniform number stands for: the first candidate, likeliest first, whose cumulative probability exceeds it. */
    int choose(SamplingSettings settings, double uniform, int[] recent, int from, int to) {
        penalise(settings.repetitionPenalty, recent, from, to);
        if (settings.temperature == 0) {
            rank(scores, 1);
            return ids[0];
        }
        for (int id = 0; id < scores.length; id++) {
            scores[id] /= settings.temperature;
        }
        rank(scores, settings.topK == 0 ? scores.length : settings.topK);
        weigh(settings.topP);
        double sum = 0;
        for (int i = 0; i < candidates; i++) {
            sum += mass[i];
            if (sum > uniform) {
                return ids[i];
            }
        }
        return ids[candidates - 1]; // rounding can leave the sum a little below 1
    }

    /** Replaces logits by the probabilities of all tokens. */
    static void softmax(FloatBuffer logits, double[] target) {
        int start = logits.position();
        double highest = Double.NEGATIVE_INFINITY;
        for (int id = 0; id < target.length; id++) {
            target[id] = logits.get(start + id);
            highest = Math.max(highest, target[id]);
        }
        double sum = 0;
        for (int id = 0; id < target.length; id++) {
            target[id] = Math.exp(target[id] - highest);
            sum += target[id];
        }
        for (int id = 0; id < target.length; id++) {
            target[id] /= sum;
        }
    }

    /**
     * Finds the n highest values, highest first, the lower id first among equals; {@link #ranked} gives them.
     *
     * @return how many there are: n, or all
     * @throws EdgeLmException a value is NaN
     */
    int rank(double[] values, int n) {
        candidates = Math.min(n, values.length);
        for (int id = 0; id < values.length; id++) {
            if (Double.isNaN(values[id])) {
                throw new EdgeLmException("the logits hold NaN", "", "edgelm check FOLDER shows where the artifact goes wrong", null);
            }
            if (id < candidates) {
                ids[id] = id;
                if (id == candidates - 1) {
                    for (int place = candidates / 2 - 1; place >= 0; place--) {
                        sink(values, place, candidates);
                    }
                }
            } else if (values[id] > values[ids[0]]) {
                ids[0] = id;
                sink(values, 0, candidates);
            }
        }
        for (int end = candidates - 1; end > 0; end--) {
            int worst = ids[0];
            ids[0] = ids[end];
            ids[end] = worst;
            sink(values, 0, end);
        }
        return candidates;
    }

    /** The id at a place of the ranking. */
    int ranked(int place) {
        return ids[place];
    }

    private void penalise(double penalty, int[] recent, int from, int to) {
        if (penalty == 1) {
            return;
        }
        for (int i = from; i < to; i++) {
            int id = recent[i];
            if (!penalised[id]) {
                penalised[id] = true;
                scores[id] = scores[id] > 0 ? scores[id] / penalty : scores[id] * penalty;
            }
        }
        for (int i = from; i < to; i++) {
            penalised[recent[i]] = false;
        }
    }

    /** Probabilities of the ranked candidates, cut to the nucleus. */
    private void weigh(double topP) {
        double sum = 0;
        for (int i = 0; i < candidates; i++) {
            mass[i] = Math.exp(scores[ids[i]] - scores[ids[0]]);
            sum += mass[i];
        }
        double kept = 0;
        int count = 0;
        for (int i = 0; i < candidates; i++) {
            mass[i] /= sum;
        }
        if (topP >= 1) {
            return;
        }
        while (count < candidates && (count == 0 || kept < topP)) {
            kept += mass[count++];
        }
        candidates = count;
        for (int i = 0; i < candidates; i++) {
            mass[i] /= kept;
        }
    }

    /** Restores the heap below a place; its root is the worst of the candidates. */
    private void sink(double[] values, int root, int size) {
        int id = ids[root];
        int place = root;
        while (2 * place + 1 < size) {
            int child = 2 * place + 1;
            if (child + 1 < size && worse(values, ids[child + 1], ids[child])) {
                child++;
            }
            if (!worse(values, ids[child], id)) {
                break;
            }
            ids[place] = ids[child];
            place = child;
        }
        ids[place] = id;
    }

    private static boolean worse(double[] values, int one, int other) {
        return values[one] < values[other] || values[one] == values[other] && one > other;
    }
}
