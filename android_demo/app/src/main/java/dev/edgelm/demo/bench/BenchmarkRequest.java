package dev.edgelm.demo.bench;

import android.content.Intent;
import dev.edgelm.core.EdgeLmException;

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
    /** Most tokens of one run: what a phone does in minutes. */
    public static final int MOST_RUNS = 100_000;
    /** Most tokens before the measured ones. */
    public static final int MOST_WARMUP = 10_000;
    /** Most threads of the runtime. */
    public static final int MOST_THREADS = 16;

    /** Tokens of the prompt, unless asked otherwise. */
    public static final int PROMPT = 32;
    /** The extra that names the report. */
    public static final String REPORT = "report";

    private static final int MOST_PROMPT = 4096;

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
        this.runs = within("runs", runs, 1, MOST_RUNS);
        this.prompt = within("prompt", prompt, 0, MOST_PROMPT);
        this.warmup = within("warmup", warmup, 0, MOST_WARMUP);
        this.threads = within("threads", threads, 1, MOST_THREADS);
        this.report = report;
    }

    /**
     * Whether an intent asks for a run, and does not just open the screen.
     *
     * @param intent of the activity
     * @return whether it names a report
     */
    public static boolean isIn(Intent intent) {
        return intent.hasExtra(REPORT);
    }

    /**
     * The request of an intent.
     *
     * @param intent of the activity
     * @return the request
     * @throws EdgeLmException an extra is of the wrong type, or out of range
     */
    public static BenchmarkRequest of(Intent intent) {
        return new BenchmarkRequest(
                text(intent, "model"),
                number(intent, "runs", 128),
                number(intent, "prompt", PROMPT),
                number(intent, "warmup", 8),
                number(intent, "threads", 1),
                ReportFolder.checkedId(text(intent, REPORT)));
    }

    private static String text(Intent intent, String name) {
        Object value = intent.getExtras().get(name);
        if (value != null && !(value instanceof String)) {
            throw new EdgeLmException("the extra " + name + " is no text", "", "--es " + name + " TEXT", null);
        }
        return value == null ? "" : (String) value;
    }

    private static int number(Intent intent, String name, int fallback) {
        Object value = intent.getExtras().get(name);
        if (value != null && !(value instanceof Integer)) {
            throw new EdgeLmException("the extra " + name + " is no whole number", "", "--ei " + name + " NUMBER", null);
        }
        return value == null ? fallback : (Integer) value;
    }

    private static int within(String name, int value, int least, int most) {
        if (value < least || value > most) {
            throw new EdgeLmException(name + " = " + value, least + " to " + most);
        }
        return value;
    }
}
