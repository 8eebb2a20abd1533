package dev.edgelm.core;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Measures a session as an app uses it: a prompt, then token after token, with seeded random ids (speed does not depend on them).
 *
 * <pre>{@code
 * Measurement measured = new Profiler(session, Probes.JVM).run(Profiler.Plan.DEFAULT, (done, total) -> true);
 * measured.percentile(90); // ms a token that 9 of 10 steps did not exceed
 * }</pre>
 */
public final class Profiler {
    /** Steps between two looks at memory and temperature, which themselves take time. */
    private static final int LOOK_EVERY = 32;

    private static final int PREFILLS = 3;

    /** What to run. */
    public static final class Plan {
        /** As the command-line runner does by default. */
        public static final Plan DEFAULT = new Plan(32, 128, 8, 0);

        final int prompt;
        final int tokens;
        final int warmup;
        final long seed;

        /**
         * A plan.
         *
         * @param prompt tokens of the prompt, at least 1
         * @param tokens steps that are timed, at least 1
         * @param warmup steps before them
         * @param seed of the token ids
         * @throws EdgeLmException a number is out of range
         */
        public Plan(int prompt, int tokens, int warmup, long seed) {
            if (prompt < 1 || tokens < 1 || warmup < 0 || seed < 0 || tokens > 1_000_000) {
                String met = "prompt " + prompt + ", tokens " + tokens + ", warmup " + warmup + ", seed " + seed;
                String allowed = "prompt and tokens from 1 on, tokens up to 1000000, the others from 0 on";
                throw new EdgeLmException("the plan cannot be run: " + met, allowed);
            }
            this.prompt = prompt;
            this.tokens = tokens;
            this.warmup = warmup;
            this.seed = seed;
        }
    }

    private final Session session;
    private final Probes probes;
    private final List<Measurement.Thermal> thermal = new ArrayList<>();
    private long start;
    private double peakMb;

    /**
     * A profiler.
     *
     * @param session best one that was just opened: the first token then includes what a user waits for
     * @param probes clock, memory and temperature
     */
    public Profiler(Session session, Probes probes) {
        this.session = session;
        this.probes = probes;
    }

    /**
     * Runs a plan. A session that is full starts again, with the prompt of half a context untimed.
     *
     * @param plan what to run
     * @param progress hears of every step; false ends the run with what was measured so far
     * @return the times
     * @throws EdgeLmException the prompt exceeds the context, or the runtime failed
     */
    public Measurement run(Plan plan, Progress progress) {
        int[] ids = randomIds(plan);
        thermal.clear();
        peakMb = 0;
        start = probes.nanoTime();
        double beforeMb = look();
        session.reset();
        long began = probes.nanoTime();
        session.prefill(ids, 0, plan.prompt);
        double firstTokenMs = since(began);
        boolean prefills = session.prefills() && plan.prompt > 1;
        double[] prefillMs = prefills ? prefills(ids, plan.prompt) : new double[0];
        Map<String, double[]> times = decode(plan, ids, progress);
        look();
        return new Measurement(firstTokenMs, plan.warmup, times, prefills ? plan.prompt : 0, prefillMs, beforeMb, peakMb, thermal);
    }

    private double[] prefills(int[] ids, int count) {
        double[] ms = new double[PREFILLS];
        for (int i = 0; i < PREFILLS; i++) {
            session.reset();
            long began = probes.nanoTime();
            session.prefill(ids, 0, count);
            ms[i] = since(began);
        }
        return ms;
    }

    private Map<String, double[]> decode(Plan plan, int[] ids, Progress progress) {
        String[] signatures = new String[plan.tokens];
        double[] ms = new double[plan.tokens];
        int total = plan.warmup + plan.tokens;
        int done = 0;
        while (done < total) {
            if (session.position() >= session.maxPositions()) {
                session.reset();
                session.prefill(ids, 0, Math.min(plan.prompt, Math.max(1, session.maxPositions() / 2)));
            }
            long began = probes.nanoTime();
            session.step(ids[plan.prompt + done]);
            double taken = since(began);
            if (done >= plan.warmup) {
                signatures[done - plan.warmup] = session.signature();
                ms[done - plan.warmup] = taken;
            }
            done++;
            if (done % LOOK_EVERY == 0) {
                look();
            }
            if (!progress.on(done, total)) {
                break;
            }
        }
        return bySignature(signatures, ms, Math.max(0, done - plan.warmup));
    }

    private static Map<String, double[]> bySignature(String[] signatures, double[] ms, int count) {
        Map<String, double[]> times = new LinkedHashMap<>();
        for (int i = 0; i < count; i++) {
            if (!times.containsKey(signatures[i])) {
                times.put(signatures[i], collect(signatures, ms, i, count));
            }
        }
        return times;
    }

    /** The times of the signature at {@code first}, from there on. */
    private static double[] collect(String[] signatures, double[] ms, int first, int count) {
        double[] found = new double[count - first];
        int size = 0;
        for (int i = first; i < count; i++) {
            if (signatures[i].equals(signatures[first])) {
                found[size++] = ms[i];
            }
        }
        return Arrays.copyOf(found, size);
    }

    private int[] randomIds(Plan plan) {
        Pcg64 random = new Pcg64(plan.seed);
        int[] ids = new int[plan.prompt + plan.warmup + plan.tokens];
        for (int i = 0; i < ids.length; i++) {
            ids[i] = (int) (random.nextDouble() * session.vocabSize());
        }
        return ids;
    }

    /** Notes memory and temperature; gives the memory. */
    private double look() {
        double usedMb = probes.usedMemoryMb();
        peakMb = Math.max(peakMb, usedMb);
        thermal.add(new Measurement.Thermal(since(start), probes.thermalStatus()));
        return usedMb;
    }

    private double since(long nanos) {
        return (probes.nanoTime() - nanos) / 1e6;
    }
}
