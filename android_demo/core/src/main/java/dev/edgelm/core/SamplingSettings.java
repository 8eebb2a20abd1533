package dev.edgelm.core;

/** How {@link Sampler} chooses the next token; the counterpart of {@code edgelm.runtime.sampling.SamplingSettings}. */
public final class SamplingSettings {
    /** The likeliest token each time. */
    public static final SamplingSettings GREEDY = new SamplingSettings(0, 0, 1, 1, 0);

    final double temperature;
    final int topK;
    final double topP;
    final double repetitionPenalty;
    final long seed;

    /**
     * All settings.
     *
     * @param temperature divides the logits; 0 takes the likeliest token
     * @param topK only the k likeliest tokens are drawn from; 0 for all
     * @param topP nucleus sampling (Holtzman et al. 2020): only the fewest likeliest tokens whose probabilities sum to at least this
     *     are drawn from; 1 for all
     * @param repetitionPenalty Keskar et al. 2019: positive logits of recent tokens are divided by it, others multiplied; 1 for none
     * @param seed of the random numbers; equal seeds give equal texts, here and in Python
     * @throws EdgeLmException a value is out of range
     */
    public SamplingSettings(double temperature, int topK, double topP, double repetitionPenalty, long seed) {
        require(temperature >= 0 && temperature <= Double.MAX_VALUE, "temperature", temperature, "0 (greedy) or more");
        require(topK >= 0, "topK", topK, "0 (all) or more");
        require(topP > 0 && topP <= 1, "topP", topP, "more than 0, at most 1 (all)");
        require(repetitionPenalty > 0, "repetitionPenalty", repetitionPenalty, "more than 0; 1 for none");
        require(seed >= 0, "seed", seed, "0 or more");
        this.temperature = temperature;
        this.topK = topK;
        this.topP = topP;
        this.repetitionPenalty = repetitionPenalty;
        this.seed = seed;
    }

    private static void require(boolean good, String name, double value, String allowed) {
        if (!good) {
            throw new EdgeLmException(name + " = " + value, allowed);
        }
    }
}
