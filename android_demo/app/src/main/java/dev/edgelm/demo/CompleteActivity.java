package dev.edgelm.demo;

import android.os.Bundle;
import android.widget.EditText;
import android.widget.TextView;
import dev.edgelm.core.EdgeLmException;
import dev.edgelm.core.SamplingSettings;

/** Completes a text while the user watches. */
public final class CompleteActivity extends JobActivity<CompletionJob> {
    private static final String OUTPUT = "output";

    @Override
    protected void onCreate(Bundle state) {
        super.onCreate(state);
        show(R.layout.activity_complete);
        if (state == null) {
            fill(R.id.max_tokens, 40);
            fill(R.id.temperature, 0.8);
            fill(R.id.top_k, 40);
            fill(R.id.top_p, 0.95);
            fill(R.id.seed, 0);
        } else {
            say(R.id.output, state.getString(OUTPUT, ""));
        }
        onClick(R.id.run, this::run);
        onClick(R.id.stop, () -> job.stop());
        resumeJob();
    }

    @Override
    protected void onSaveInstanceState(Bundle state) {
        super.onSaveInstanceState(state);
        state.putString(OUTPUT, ((TextView) findViewById(R.id.output)).getText().toString());
    }

    @Override
    public void changed(CompletionJob now) {
        say(R.id.output, now.text());
        String status = getString(R.string.completing);
        if (now.ended() && now.error().isEmpty()) {
            String speed = Numbers.shortly(now.tokens() / Math.max(now.seconds(), 1e-9));
            status = getString(R.string.completed, now.tokens(), Numbers.shortly(now.seconds()), speed);
        } else if (now.ended()) {
            status = now.error();
        }
        showState(!now.ended(), status);
    }

    private void run() {
        try {
            SamplingSettings settings =
                    new SamplingSettings(
                            number(R.id.temperature, R.string.temperature_label, 0, 100),
                            count(R.id.top_k, R.string.top_k_label, 0, 1_000_000),
                            number(R.id.top_p, R.string.top_p_label, 0.001, 1),
                            1,
                            count(R.id.seed, R.string.seed_label, 0, Integer.MAX_VALUE));
            int tokens = count(R.id.max_tokens, R.string.max_tokens_label, 1, 10_000);
            String prompt = ((EditText) findViewById(R.id.prompt)).getText().toString();
            start(new CompletionJob(engine(), prompt, tokens, settings));
        } catch (EdgeLmException error) {
            showState(false, error.getMessage());
        }
    }

    private void showState(boolean running, String status) {
        findViewById(R.id.run).setEnabled(!running);
        findViewById(R.id.stop).setEnabled(running);
        say(R.id.status, status);
    }
}
