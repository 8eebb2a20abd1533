package dev.edgelm.demo;

import android.content.Intent;
import android.net.Uri;
import android.os.Bundle;
import android.widget.ArrayAdapter;
import android.widget.ListView;
import dev.edgelm.core.EdgeLmException;
import dev.edgelm.demo.engine.EngineHost;
import dev.edgelm.demo.engine.ModelFile;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/** Chooses a model, or imports one through the system's file picker. */
public final class ModelsActivity extends ScreenActivity {
    private static final int PICK = 1;

    private List<ModelFile> shown = Collections.emptyList();

    @Override
    protected void onCreate(Bundle state) {
        super.onCreate(state);
        show(R.layout.activity_models);
        Intent pick = new Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType("*/*"); // .tflite has no type
        onClick(R.id.import_model, () -> open(pick, PICK, R.id.status));
        ListView list = (ListView) findViewById(R.id.models);
        list.setOnItemClickListener((rows, row, position, id) -> choose(shown.get(position)));
        refresh();
    }

    @Override
    protected void onActivityResult(int request, int result, Intent data) {
        if (request == PICK && result == RESULT_OK && data != null && data.getData() != null) {
            importFrom(data.getData());
        }
    }

    private void importFrom(Uri source) {
        say(R.id.status, getString(R.string.importing));
        engine().submitExclusive(
                () -> models().importFrom(source),
                new EngineHost.Listener<ModelFile>() {
                    @Override
                    public void done(ModelFile model) {
                        models().choose(model);
                        refresh();
                        say(R.id.status, getString(R.string.imported, model.name()));
                    }

                    @Override
                    public void failed(String words) {
                        say(R.id.status, words);
                    }
                });
    }

    private void choose(ModelFile model) {
        models().choose(model);
        say(R.id.status, chosenModel());
    }

    private void refresh() {
        try {
            shown = models().list();
            List<String> rows = new ArrayList<>();
            for (ModelFile model : shown) {
                String place = getString(model.isAsset() ? R.string.in_app : R.string.on_phone);
                rows.add(getString(R.string.model_row, model.name(), Numbers.shortly(model.bytes() / 1e6), place));
            }
            ListView list = (ListView) findViewById(R.id.models);
            list.setAdapter(new ArrayAdapter<>(this, android.R.layout.simple_list_item_single_choice, rows));
            list.setItemChecked(position(models().chosen()), true);
        } catch (IOException | EdgeLmException error) {
            say(R.id.status, error.getMessage());
        }
    }

    private int position(ModelFile wanted) {
        for (int i = 0; i < shown.size(); i++) {
            if (shown.get(i).name().equals(wanted.name()) && shown.get(i).isAsset() == wanted.isAsset()) {
                return i;
            }
        }
        return ListView.INVALID_POSITION;
    }
}
