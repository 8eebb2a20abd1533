package dev.edgelm.demo;

import android.os.Bundle;
import android.text.Editable;
import android.text.TextWatcher;
import android.widget.Button;
import android.widget.EditText;
import dev.edgelm.core.Suggestion;
import dev.edgelm.demo.engine.Engine;
import dev.edgelm.demo.engine.EngineHost;
import java.text.NumberFormat;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;

/** A text field with three next words below it, as on a keyboard. */
public final class SuggestActivity extends ScreenActivity {
    private static final int[] BUTTONS = {R.id.suggestion_1, R.id.suggestion_2, R.id.suggestion_3};

    private final AtomicInteger newest = new AtomicInteger();
    private final double[] latencies = new double[101]; // ms of the last suggestions, a ring
    private int answered;
    private EditText text;

    @Override
    protected void onCreate(Bundle state) {
        super.onCreate(state);
        show(R.layout.activity_suggest);
        text = (EditText) findViewById(R.id.text);
        text.addTextChangedListener(
                new TextWatcher() {
                    @Override
                    public void beforeTextChanged(CharSequence before, int start, int count, int after) {}

                    @Override
                    public void onTextChanged(CharSequence now, int start, int before, int count) {}

                    @Override
                    public void afterTextChanged(Editable now) {
                        ask();
                    }
                });
        for (int button : BUTTONS) {
            onClick(button, () -> append(((Button) findViewById(button)).getText().toString()));
        }
    }

    @Override
    protected void onStart() {
        super.onStart();
        ask();
    }

    @Override
    protected void onStop() {
        newest.incrementAndGet(); // whatever still waits is stale
        super.onStop();
    }

    /** Asks for the words after the present text; a request that a newer one has overtaken is skipped. */
    private void ask() {
        int number = newest.incrementAndGet();
        String asked = text.getText().toString();
        engine().submit(
                engine -> number == newest.get() ? Answer.to(asked, engine) : Answer.NONE,
                new EngineHost.Listener<Answer>() {
                    @Override
                    public void done(Answer answer) {
                        if (number == newest.get()) {
                            show(answer);
                            say(R.id.status, "");
                        }
                    }

                    @Override
                    public void failed(String words) {
                        if (number == newest.get()) {
                            show(Answer.NONE);
                            say(R.id.status, words);
                        }
                    }
                });
    }

    private void show(Answer answer) {
        for (int i = 0; i < BUTTONS.length; i++) {
            Button button = (Button) findViewById(BUTTONS[i]);
            boolean given = i < answer.words.size();
            button.setEnabled(given);
            button.setText(given ? answer.words.get(i).text() : "");
            button.setContentDescription(given ? description(answer.words.get(i)) : getString(R.string.no_suggestion));
        }
        if (answer != Answer.NONE) {
            latencies[answered++ % latencies.length] = answer.ms;
            int known = Math.min(answered, latencies.length);
            double[] sorted = Arrays.copyOf(latencies, known);
            Arrays.sort(sorted);
            String median = Numbers.shortly(sorted[known / 2]);
            String line = getString(R.string.latency, Numbers.shortly(answer.ms), median, String.valueOf(known));
            say(R.id.latency, line);
        }
    }

    private String description(Suggestion word) {
        return getString(R.string.suggestion_description, word.text(), NumberFormat.getPercentInstance().format(word.probability()));
    }

    private void append(String word) {
        Editable typed = text.getText();
        boolean spaced = typed.length() == 0 || Character.isWhitespace(typed.charAt(typed.length() - 1));
        typed.append(spaced ? "" : " ").append(word).append(" ");
        text.setSelection(typed.length());
    }

    /** Three words and how long they took. */
    private static final class Answer {
        static final Answer NONE = new Answer(Collections.emptyList(), 0);

        final List<Suggestion> words;
        final double ms;

        private Answer(List<Suggestion> words, double ms) {
            this.words = words;
            this.ms = ms;
        }

        static Answer to(String text, Engine engine) {
            long start = System.nanoTime();
            List<Suggestion> words = engine.suggester().suggest(text, BUTTONS.length);
            return new Answer(words, (System.nanoTime() - start) / 1e6);
        }
    }
}
