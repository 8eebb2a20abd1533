package dev.edgelm.demo;

import dev.edgelm.core.SamplingSettings;
import dev.edgelm.demo.engine.Engine;
import dev.edgelm.demo.engine.EngineHost;

/** One completion, which goes on while its screen is rotated. Everything but {@link #run} is for the main thread. */
final class CompletionJob implements EngineHost.Task<Integer>, EngineHost.Listener<Integer> {
    private final EngineHost host;
    private final String prompt;
    private final int maxTokens;
    private final SamplingSettings settings;
    private final StringBuilder text;
    private volatile boolean stopped;
    private volatile double seconds;
    private Watcher watcher;
    private int tokens;
    private String error = "";
    private boolean ended;

    CompletionJob(EngineHost host, String prompt, int maxTokens, SamplingSettings settings) {
        this.host = host;
        this.prompt = prompt;
        this.maxTokens = maxTokens;
        this.settings = settings;
        this.text = new StringBuilder(prompt);
    }

    /** The screen that shows the job at present. */
    interface Watcher {
        void changed(CompletionJob job);
    }

    void start() {
        host.submit(this, this);
    }

    void stop() {
        stopped = true;
    }

    /** Shows the job on another screen, or on none. */
    void watch(Watcher other) {
        watcher = other;
        changed();
    }

    String text() {
        return text.toString();
    }

    /** What went wrong; empty when nothing did. */
    String error() {
        return error;
    }

    boolean ended() {
        return ended;
    }

    int tokens() {
        return tokens;
    }

    double seconds() {
        return seconds;
    }

    @Override
    public Integer run(Engine engine) {
        long start = System.nanoTime();
        int written = engine.completer().complete(prompt, maxTokens, settings, this::write);
        seconds = (System.nanoTime() - start) / 1e9;
        return written;
    }

    @Override
    public void done(Integer written) {
        tokens = written;
        ended = true;
        changed();
    }

    @Override
    public void failed(String words) {
        error = words;
        ended = true;
        changed();
    }

    /** Hears of each part on the worker thread. */
    private boolean write(String part) {
        host.post(() -> append(part));
        return !stopped;
    }

    private void append(String part) {
        text.append(part);
        changed();
    }

    private void changed() {
        if (watcher != null) {
            watcher.changed(this);
        }
    }
}
