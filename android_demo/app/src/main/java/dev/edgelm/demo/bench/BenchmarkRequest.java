package dev.edgelm.demo.bench;

import dev.edgelm.core.EdgeLmException;
import java.util.Map;

/**
 * What to measure, as {@code am start} asks for it.
 *
 * <pre>{@code
 * am start -W -n dev.edgelm.demo/.BenchmarkActivity --es model keyboard-lstm --ei runs 128 --ei warmup 8 --ei threads 1 --es report ID
 * }</pre>
 *
 * The extras may come from another process: each is checked before anything is done with it.
 */
public final class BenchmarkRequest {
    /** Most tokens of any kind. */
    public static final int MOST_TOKENS = 1_000_000;
    /** Most threads of the runtime. */
    public static final int MOST_THREADS = 64;

    /** Tokens of the prompt, unless asked otherwise. */
    public static final int PROMPT = 32;
    /** The extra that names the report. */
    public static final String REPORT = "report";

    /** Name of a model, or a path in the app's own folders; empty for the chosen model. */
    public final String model;
    /** Tokens to measure. */
    public final int runs;
    /** Tokens of the prompt. */
    public final int prompt;
    /** Tokens before the first that is measured. */
    public final int warmup;
    /** Threads of the runtime. */
    public final int threads;
    /** Name of the report to write; empty for none. */
    public final String report;

    /**
     * A request.
     *
     * @throws EdgeLmException a value is out of range
     */
    public BenchmarkRequest(String model, int runs, int prompt, int warmup, int threads, String report) {
        this.model = model;
        this.runs = within("runs", runs, 1, MOST_TOKENS);
        this.prompt = within("prompt", prompt, 1, MOST_TOKENS);
        this.warmup = within("warmup", warmup, 0, MOST_TOKENS);
        this.threads = within("threads", threads, 1, MOST_THREADS);
        this.report = report;
    }

    /**
     * The request that an intent's extras make.
     *
     * @param extras name to value; unknown names are ignored
     * @return the request
     * @throws EdgeLmException an extra is of the wrong type or out of range, or the report's id is not usable
     */
    public static BenchmarkRequest of(Map<String, ?> extras) {
        return new BenchmarkRequest(
                extra(extras, "model", String.class, "--es", ""),
                extra(extras, "runs", Integer.class, "--ei", 128),
                extra(extras, "prompt", Integer.class, "--ei", PROMPT),
                extra(extras, "warmup", Integer.class, "--ei", 8),
                extra(extras, "threads", Integer.class, "--ei", 1),
                ReportFolder.checkedId(extra(extras, REPORT, String.class, "--es", "")));
    }

    private static <T> T extra(Map<String, ?> extras, String name, Class<T> type, String option, T fallback) {
        Object value = extras.get(name);
        if (value != null && !type.isInstance(value)) {
            String fix = option + " " + name + " VALUE";
            throw new EdgeLmException("the extra " + name + " is of the wrong type", type.getSimpleName(), fix, null);
        }
        return value == null ? fallback : type.cast(value);
    }

    private static int within(String name, int value, int least, int most) {
        if (value < least || value > most) {
            throw new EdgeLmException(name + " = " + value, least + " to " + most);
        }
        return value;
    }
}
