package dev.edgelm.demo.engine;

import java.io.File;

/** A model the app can open: in its assets, or a file of its own. */
public final class ModelFile {
    private final String name;
    private final String asset;
    private final File file;
    private final long bytes;

    private ModelFile(String name, String asset, File file, long bytes) {
        this.name = name;
        this.asset = asset;
        this.file = file;
        this.bytes = bytes;
    }

    static ModelFile ofAsset(String name, String asset, long bytes) {
        return new ModelFile(name, asset, null, bytes);
    }

    static ModelFile ofFile(File file) {
        return new ModelFile(file.getName().replaceFirst("\\.tflite$", ""), null, file, file.length());
    }

    /**
     * What the user sees and chooses by.
     *
     * @return the file's name without its ending
     */
    public String name() {
        return name;
    }

    /**
     * Its size.
     *
     * @return bytes
     */
    public long bytes() {
        return bytes;
    }

    /**
     * Whether it came with the app.
     *
     * @return false for files that were imported or pushed
     */
    public boolean isAsset() {
        return asset != null;
    }

    /** Path inside the assets; null for a file. */
    String asset() {
        return asset;
    }

    /** The file; null for an asset. */
    File file() {
        return file;
    }
}
