package dev.edgelm.demo.engine;

import android.content.Context;
import android.content.SharedPreferences;
import android.content.res.AssetFileDescriptor;
import android.content.res.AssetManager;
import android.net.Uri;
import dev.edgelm.core.Artifact;
import dev.edgelm.core.EdgeLmException;
import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/** The models on this phone: those that came with the app, and those that were imported into its private folder. */
public final class ModelStore {
    private static final String FOLDER = "models";
    private static final String ENDING = ".tflite";
    private static final String CHOSEN = "chosen";
    private static final long LARGEST_IMPORT = 2_000_000_000L; // a buffer has at most 2^31 - 1 bytes

    private final Context context;

    /**
     * The models of an app.
     *
     * @param context the application
     */
    public ModelStore(Context context) {
        this.context = context;
    }

    /**
     * All models, those in the app first.
     *
     * @return by name
     * @throws IOException the assets cannot be read
     */
    public List<ModelFile> list() throws IOException {
        List<ModelFile> found = new ArrayList<>();
        AssetManager assets = context.getAssets();
        for (String name : assets.list(FOLDER)) {
            String asset = FOLDER + "/" + name;
            try (AssetFileDescriptor stored = assets.openFd(asset)) {
                found.add(ModelFile.ofAsset(name.replace(ENDING, ""), asset, stored.getLength()));
            }
        }
        File[] imported = folder().listFiles();
        if (imported != null) {
            Arrays.sort(imported);
            for (File file : imported) {
                if (file.getName().endsWith(ENDING)) {
                    found.add(ModelFile.ofFile(file));
                }
            }
        }
        return found;
    }

    /**
     * The model the user chose, or the first.
     *
     * @return a model of {@link #list()}
     * @throws EdgeLmException there is none
     * @throws IOException the assets cannot be read
     */
    public ModelFile chosen() throws IOException {
        List<ModelFile> models = list();
        String wanted = preferences().getString(CHOSEN, "");
        for (ModelFile model : models) {
            if (key(model).equals(wanted)) {
                return model;
            }
        }
        if (models.isEmpty()) {
            throw new EdgeLmException("this app has no model", "", "import a .tflite that edgelm convert wrote", null);
        }
        return models.get(0);
    }

    /**
     * Remembers the user's choice.
     *
     * @param model one of {@link #list()}
     */
    public void choose(ModelFile model) {
        preferences().edit().putString(CHOSEN, key(model)).apply();
    }

    /**
     * A model by its name, or by a path inside the app's own folders.
     *
     * <p>The path may come from another process: nothing outside those folders is opened, symbolic links included.
     *
     * @param nameOrPath a name of {@link #list()}, or an absolute path of a .tflite
     * @return the model
     * @throws EdgeLmException there is none of that name, or the path is elsewhere
     * @throws IOException the assets or the path cannot be read
     */
    public ModelFile find(String nameOrPath) throws IOException {
        if (nameOrPath.startsWith("/")) {
            return ofPath(nameOrPath);
        }
        List<String> names = new ArrayList<>();
        for (ModelFile model : list()) {
            if (model.name().equals(nameOrPath)) {
                return model;
            }
            names.add(model.name());
        }
        throw new EdgeLmException("there is no model " + nameOrPath, names.toString());
    }

    /**
     * Maps a model into memory: its pages are read when the runtime touches them, and belong to no heap.
     *
     * @param model to map
     * @return the whole file
     * @throws IOException it is gone, or compressed inside the APK
     */
    public ByteBuffer map(ModelFile model) throws IOException {
        if (model.isAsset()) {
            try (AssetFileDescriptor stored = context.getAssets().openFd(model.asset());
                    FileInputStream stream = new FileInputStream(stored.getFileDescriptor())) {
                return stream.getChannel().map(FileChannel.MapMode.READ_ONLY, stored.getStartOffset(), stored.getLength());
            }
        }
        try (FileInputStream stream = new FileInputStream(model.file())) {
            FileChannel channel = stream.getChannel();
            return channel.map(FileChannel.MapMode.READ_ONLY, 0, channel.size());
        }
    }

    /**
     * Copies a file the user picked into the app's folder, checked before it is kept, and named after its own manifest.
     *
     * @param source of the system's file picker
     * @return the model
     * @throws EdgeLmException it is damaged, or edgelm did not write it
     * @throws IOException it cannot be read, or the phone is full
     */
    public ModelFile importFrom(Uri source) throws IOException {
        File folder = folder();
        File copy = File.createTempFile("import", ".part", folder);
        try {
            try (InputStream stream = context.getContentResolver().openInputStream(source)) {
                copy(stream, copy);
            }
            Artifact artifact = Artifact.open(map(ModelFile.ofFile(copy)));
            artifact.verify();
            File kept = new File(folder, artifact.manifest().name().replaceAll("[^A-Za-z0-9._-]", "_") + ENDING);
            if (!copy.renameTo(kept)) {
                throw new IOException("the model cannot be kept as " + kept.getName());
            }
            return ModelFile.ofFile(kept);
        } finally {
            copy.delete();
        }
    }

    private ModelFile ofPath(String path) throws IOException {
        String shellName = "/sdcard/Android/data/" + context.getPackageName() + "/files/";
        OwnFiles own = new OwnFiles(context.getFilesDir(), context.getExternalFilesDir(null), shellName);
        return ModelFile.ofFile(own.resolve(path, ENDING));
    }

    private static void copy(InputStream source, File target) throws IOException {
        if (source == null) {
            throw new IOException("the file's provider gives no content");
        }
        byte[] block = new byte[1 << 16];
        long written = 0;
        try (FileOutputStream stream = new FileOutputStream(target)) {
            for (int length = source.read(block); length >= 0; length = source.read(block)) {
                written += length;
                if (written > LARGEST_IMPORT) {
                    throw new EdgeLmException("the file is larger than a model can be", "at most 2 GB");
                }
                stream.write(block, 0, length);
            }
            stream.getFD().sync();
        }
    }

    private File folder() throws IOException {
        File folder = new File(context.getFilesDir(), FOLDER);
        if (!folder.isDirectory() && !folder.mkdirs()) {
            throw new IOException("the folder " + folder + " cannot be made");
        }
        return folder;
    }

    private SharedPreferences preferences() {
        return context.getSharedPreferences(FOLDER, Context.MODE_PRIVATE);
    }

    private static String key(ModelFile model) {
        return (model.isAsset() ? "app:" : "phone:") + model.name();
    }
}
