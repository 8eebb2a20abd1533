package dev.edgelm.demo;

import android.content.Intent;
import android.net.Uri;
import android.os.Bundle;
import android.view.View;
import android.widget.AdapterView;
import android.widget.ArrayAdapter;
import android.widget.ListView;
import android.widget.TextView;
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
        findViewById(R.id.import_model)
                .setOnClickListener(
                        new View.OnClickListener() {
                            @Override
                            public void onClick(View view) {
                                Intent pick = new Intent(Intent.ACTION_OPEN_DOCUMENT);
                                pick.addCategory(Intent.CATEGORY_OPENABLE).setType("*/*"); // .tflite has no type of its own
                                startActivityForResult(pick, PICK);
                            }
                        });
        ((ListView) findViewById(R.id.models))
                .setOnItemClickListener(
                        new AdapterView.OnItemClickListener() {
                            @Override
                            public void onItemClick(AdapterView<?> list, View row, int position, long id) {
                                models().choose(shown.get(position));
                                say(getString(R.string.model_chosen, shown.get(position).name()));
                            }
                        });
        refresh();
    }

    @Override
    protected void onActivityResult(int request, int result, Intent data) {
        if (request == PICK && result == RESULT_OK && data != null && data.getData() != null) {
            importFrom(data.getData());
        }
    }

    private void importFrom(final Uri source) {
        say(getString(R.string.importing));
        engine().submitExclusive(
                        new EngineHost.ExclusiveTask<ModelFile>() {
                            @Override
                            public ModelFile run() throws IOException {
                                return models().importFrom(source);
                            }
                        },
                        new EngineHost.Listener<ModelFile>() {
                            @Override
                            public void done(ModelFile model) {
                                models().choose(model);
                                refresh();
                                say(getString(R.string.imported, model.name()));
                            }

                            @Override
                            public void failed(String words) {
                                say(words);
                            }
                        });
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
            say(error.getMessage());
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

    private void say(String words) {
        ((TextView) findViewById(R.id.status)).setText(words);
    }
}
