package dev.edgelm.demo;

import android.app.Activity;
import android.app.Instrumentation;
import android.os.Bundle;
import dev.edgelm.core.EdgeLmException;
import dev.edgelm.demo.engine.Engine;
import dev.edgelm.demo.engine.ModelFile;
import dev.edgelm.demo.engine.ModelStore;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.util.List;
import org.json.JSONException;
import org.json.JSONObject;

/**
 * Runs {@link GoldenCheck} on the phone, for every model in the app that the golden knows.
 *
 * <pre>{@code adb shell am instrument -w dev.edgelm.demo/.GoldenInstrumentation}</pre>
 *
 * <p>It prints one line a model, then {@code OK (n checks)} or {@code FAILURES}, as test runners do.
 */
public final class GoldenInstrumentation extends Instrumentation {
    private static final String GOLDEN = "golden/engine.json";
    private static final int SHOWN = 10; // differences of a model that are worth reading

    @Override
    public void onCreate(Bundle arguments) {
        super.onCreate(arguments);
        start();
    }

    @Override
    public void onStart() {
        super.onStart();
        waitForIdleSync(); // the application is made on the main thread meanwhile
        StringBuilder said = new StringBuilder("\n");
        boolean good = false;
        try {
            good = check(said);
        } catch (IOException | JSONException | EdgeLmException error) {
            said.append(error.getMessage()).append('\n');
        }
        Bundle result = new Bundle();
        result.putString(Instrumentation.REPORT_KEY_STREAMRESULT, said + (good ? "" : "\nFAILURES\n"));
        finish(good ? Activity.RESULT_OK : Activity.RESULT_CANCELED, result);
    }

    private boolean check(StringBuilder said) throws IOException, JSONException {
        JSONObject golden = new JSONObject(text(GOLDEN));
        ModelStore models = DemoApplication.of(getTargetContext()).models();
        int checks = 0;
        int differences = 0;
        for (ModelFile model : models.list()) {
            if (model.isAsset() && golden.has(model.name())) {
                try (Engine engine = Engine.open(models.map(model), 1)) {
                    GoldenCheck check = new GoldenCheck(engine);
                    check.run(golden.getJSONObject(model.name()));
                    checks += check.checks();
                    differences += check.differences().size();
                    say(said, model.name(), check);
                }
            }
        }
        if (differences == 0 && checks > 0) {
            said.append("\nOK (").append(checks).append(" checks)\n");
        }
        return differences == 0 && checks > 0;
    }

    private static void say(StringBuilder said, String model, GoldenCheck check) {
        List<String> differences = check.differences();
        said.append(model).append(": ").append(check.checks()).append(" checks, ").append(differences.size()).append(" differences\n");
        for (String difference : differences.subList(0, Math.min(SHOWN, differences.size()))) {
            said.append("  ").append(difference).append('\n');
        }
    }

    private String text(String asset) throws IOException {
        try (InputStream stream = getTargetContext().getAssets().open(asset)) {
            ByteArrayOutputStream content = new ByteArrayOutputStream();
            byte[] block = new byte[1 << 14];
            for (int length = stream.read(block); length >= 0; length = stream.read(block)) {
                content.write(block, 0, length);
            }
            return new String(content.toByteArray(), StandardCharsets.UTF_8);
        }
    }
}
