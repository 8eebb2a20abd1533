package dev.edgelm.demo;

import android.app.Activity;
import android.content.Intent;
import android.os.Bundle;
import dev.edgelm.demo.litert.LiteRtRunner;

/** The first screen: which model is chosen, and the ways to use it. */
public final class MainActivity extends ScreenActivity {
    @Override
    protected void onCreate(Bundle state) {
        super.onCreate(state);
        show(R.layout.activity_main);
        opens(R.id.open_suggest, SuggestActivity.class);
        opens(R.id.open_complete, CompleteActivity.class);
        opens(R.id.open_benchmark, BenchmarkActivity.class);
        opens(R.id.open_models, ModelsActivity.class);
        boolean runs = LiteRtRunner.isAvailable();
        String note = runs ? getString(R.string.runtime_note, LiteRtRunner.VERSION) : getString(R.string.runtime_missing);
        say(R.id.runtime_note, note);
    }

    @Override
    protected void onResume() {
        super.onResume();
        say(R.id.model_status, chosenModel());
    }

    private void opens(int button, Class<? extends Activity> screen) {
        onClick(button, () -> startActivity(new Intent(this, screen)));
    }
}
