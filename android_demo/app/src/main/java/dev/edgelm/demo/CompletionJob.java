package dev.edgelm.demo;

import dev.edgelm.core.SamplingSettings;
import dev.edgelm.demo.engine.Engine;
import dev.edgelm.demo.engine.EngineHost;
import dev.edgelm.demo.engine.Job;

/** One completion, which goes on while its screen is rotated. Everything but {@link #run} is for the main thread. */
final class CompletionJob extends Job<CompletionJob> implements EngineHost.Task<Integer>, EngineHost.Listener<Integer> {
    private final EngineHost host;
    private final String prompt;
    private final int maxTokens;
    private final SamplingSettings settings;
    private final StringBuilder text;
    private volatile double seconds;
    private int tokens;
    private boolean ended;

    CompletionJob(EngineHost host, String prompt, int maxTokens, SamplingSettings settings) {
        this.host = host;
        this.prompt = prompt;
        this.maxTokens = maxTokens;
        this.settings = settings;
        this.text = new StringBuilder(prompt);
    }

    @Override
    public void start() {
        host.submit(this, this);
    }

    String text() {
        return text.toString();
    }

    @Override
    protected CompletionJob self() {
        return this;
    }

    @Override
    public boolean ended() {
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
        ended = true;
        super.failed(words);
    }

    /** Hears of each part on the worker thread. */
    private boolean write(String part) {
        host.post(() -> append(part));
        return !isStopped();
    }

    private void append(String part) {
        text.append(part);
        changed();
    }
}
