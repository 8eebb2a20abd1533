package dev.edgelm.demo;

import android.app.Activity;
import android.content.ActivityNotFoundException;
import android.content.Intent;
import android.graphics.Rect;
import android.widget.EditText;
import android.widget.TextView;
import dev.edgelm.core.EdgeLmException;
import dev.edgelm.demo.engine.EngineHost;
import dev.edgelm.demo.engine.ModelStore;
import dev.edgelm.demo.platform.Platform;
import java.io.IOException;

/** What all screens share: their place between the system bars, the engine, and reading numbers. */
abstract class ScreenActivity extends Activity {
    /** Shows a layout whose root has the id {@code root}, clear of system bars and keyboard. */
    final void show(int layout) {
        setContentView(layout);
        findViewById(R.id.root).setOnApplyWindowInsetsListener((root, insets) -> {
            Rect covered = Platform.barsAndKeyboard(insets);
            root.setPadding(covered.left, covered.top, covered.right, covered.bottom);
            return insets;
        });
    }

    /** Does something when a button is pressed. */
    final void onClick(int button, Runnable action) {
        findViewById(button).setOnClickListener(view -> action.run());
    }

    /** Shows words in a text view. */
    final void say(int view, CharSequence words) {
        ((TextView) findViewById(view)).setText(words);
    }

    /** Puts a number into a field. */
    final void fill(int field, double value) {
        ((EditText) findViewById(field)).setText(Numbers.plain(value));
    }

    /** The name of the chosen model, or why there is none. */
    final String chosenModel() {
        try {
            return getString(R.string.model_chosen, models().chosen().name());
        } catch (EdgeLmException | IOException error) {
            return error.getMessage();
        }
    }

    /** Opens a screen of another app, and says so in words where there is none. */
    final void open(Intent intent, int request, int status) {
        try {
            startActivityForResult(intent, request);
        } catch (ActivityNotFoundException none) {
            say(status, getString(R.string.no_other_app));
        }
    }

    final EngineHost engine() {
        return DemoApplication.of(this).engine();
    }

    final ModelStore models() {
        return DemoApplication.of(this).models();
    }

    /**
     * The number in a field.
     *
     * @param id of the field
     * @param label resource of its label, for the message
     * @param least allowed
     * @param most allowed
     * @return the number
     * @throws EdgeLmException it is no number, or out of range
     */
    final double number(int id, int label, double least, double most) {
        String text = ((EditText) findViewById(id)).getText().toString().trim();
        try {
            double value = Double.parseDouble(text);
            if (value >= least && value <= most) {
                return value;
            }
        } catch (NumberFormatException notOne) {
            throw outOfRange(label, least, most);
        }
        throw outOfRange(label, least, most);
    }

    /** Like {@link #number}, for whole numbers. */
    final int count(int id, int label, int least, int most) {
        return (int) number(id, label, least, most);
    }

    private EdgeLmException outOfRange(int label, double least, double most) {
        return new EdgeLmException(getString(R.string.error_number, getString(label), Numbers.plain(least), Numbers.plain(most)));
    }
}
