package dev.edgelm.demo;

import android.app.Activity;
import android.content.Intent;
import android.os.Bundle;
import android.view.View;
import android.widget.TextView;
import dev.edgelm.core.EdgeLmException;
import dev.edgelm.demo.litert.LiteRtRunner;
import java.io.IOException;

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
        ((TextView) findViewById(R.id.runtime_note)).setText(note);
    }

    @Override
    protected void onResume() {
        super.onResume();
        TextView status = (TextView) findViewById(R.id.model_status);
        try {
            status.setText(getString(R.string.model_chosen, models().chosen().name()));
        } catch (EdgeLmException | IOException error) {
            status.setText(error.getMessage());
        }
    }

    private void opens(int button, final Class<? extends Activity> screen) {
        findViewById(button)
                .setOnClickListener(
                        new View.OnClickListener() {
                            @Override
                            public void onClick(View view) {
                                startActivity(new Intent(MainActivity.this, screen));
                            }
                        });
    }
}
