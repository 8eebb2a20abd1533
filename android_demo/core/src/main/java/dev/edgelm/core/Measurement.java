package dev.edgelm.core;

import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;

/** What a {@link Profiler} measured; times are wall-clock milliseconds. */
public final class Measurement {
    /** A look at the thermal sensor. */
    public static final class Thermal {
        final double atMs;
        final int status;

        Thermal(double atMs, int status) {
            this.atMs = atMs;
            this.status = status;
        }

        /**
         * When.
         *
         * @return milliseconds after the start
         */
        public double atMs() {
            return atMs;
        }

        /**
         * How hot.
         *
         * @return 0 (none) to 6 (shutdown)
         */
        public int status() {
            return status;
        }
    }

    private final double firstTokenMs;
    private final int warmup;
    private final Map<String, double[]> signatureMs;
    private final int prefillTokens;
    private final double[] prefillMs;
    private final double memoryBeforeMb;
    private final double memoryPeakMb;
    private final List<Thermal> thermal;

    Measurement(
            double firstTokenMs,
            int warmup,
            Map<String, double[]> signatureMs,
            int prefillTokens,
            double[] prefillMs,
            double memoryBeforeMb,
            double memoryPeakMb,
            List<Thermal> thermal) {
        this.firstTokenMs = firstTokenMs;
        this.warmup = warmup;
        this.signatureMs = Collections.unmodifiableMap(signatureMs);
        this.prefillTokens = prefillTokens;
        this.prefillMs = prefillMs;
        this.memoryBeforeMb = memoryBeforeMb;
        this.memoryPeakMb = memoryPeakMb;
        this.thermal = Collections.unmodifiableList(thermal);
    }

    /**
     * From an empty session to the first logits behind the prompt, allocation of the signatures included.
     *
     * @return ms
     */
    public double firstTokenMs() {
        return firstTokenMs;
    }

    /**
     * Steps before the timed ones.
     *
     * @return their number
     */
    public int warmup() {
        return warmup;
    }

    /**
     * The timed steps.
     *
     * @return signature to the ms of each of its tokens, in order; unmodifiable
     */
    public Map<String, double[]> signatureMs() {
        return signatureMs;
    }

    /**
     * The prompt that {@link #prefillMs} took.
     *
     * @return tokens; 0 when the model has no prefill signature, or the prompt was a single token
     */
    public int prefillTokens() {
        return prefillTokens;
    }

    /**
     * The timed prompts.
     *
     * @return ms of each; a copy
     */
    public double[] prefillMs() {
        return prefillMs.clone();
    }

    /**
     * Memory before the first call.
     *
     * @return MB
     */
    public double memoryBeforeMb() {
        return memoryBeforeMb;
    }

    /**
     * The most memory seen.
     *
     * @return MB
     */
    public double memoryPeakMb() {
        return memoryPeakMb;
    }

    /**
     * The thermal status over the run.
     *
     * @return looks at the sensor, in order; unmodifiable
     */
    public List<Thermal> thermal() {
        return thermal;
    }

    /**
     * A percentile of the times of all timed steps.
     *
     * @param percent 0 to 100
     * @return ms; the smallest time that at least this share of the steps did not exceed; 0 without steps
     */
    public double percentile(double percent) {
        double[] all = all();
        if (all.length == 0) {
            return 0;
        }
        Arrays.sort(all);
        int place = (int) Math.ceil(percent / 100 * all.length) - 1;
        return all[Math.min(all.length - 1, Math.max(0, place))];
    }

    /**
     * The speed of the timed steps.
     *
     * @return tokens in a second; 0 without steps
     */
    public double tokensPerSecond() {
        double sum = 0;
        double[] all = all();
        for (double ms : all) {
            sum += ms;
        }
        return sum == 0 ? 0 : 1000 * all.length / sum;
    }

    private double[] all() {
        int count = 0;
        for (double[] times : signatureMs.values()) {
            count += times.length;
        }
        double[] all = new double[count];
        int at = 0;
        for (double[] times : signatureMs.values()) {
            System.arraycopy(times, 0, all, at, times.length);
            at += times.length;
        }
        return all;
    }
}
