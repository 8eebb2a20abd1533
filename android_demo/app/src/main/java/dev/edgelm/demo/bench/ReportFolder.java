package dev.edgelm.demo.bench;

import dev.edgelm.core.EdgeLmException;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.regex.Pattern;

/** Where a computer fetches reports: {@code /sdcard/Android/data/dev.edgelm.demo/files/reports}. Files appear whole or not at all. */
public final class ReportFolder {
    /** What Android is asked for. */
    public static final String NAME = "reports";

    private static final Pattern ID = Pattern.compile("[A-Za-z0-9_-]{1,64}");

    private final File folder;

    /**
     * The reports of an app.
     *
     * @param folder {@code getExternalFilesDir("reports")}; null while the storage is not mounted
     */
    public ReportFolder(File folder) {
        this.folder = folder;
    }

    /**
     * A name that stays inside the folder.
     *
     * @param id that someone asked for
     * @return the same
     * @throws EdgeLmException it could name another place
     */
    static String checkedId(String id) {
        if (id == null || !ID.matcher(id).matches()) {
            throw new EdgeLmException("the report id is not usable", "1 to 64 letters, digits, - and _");
        }
        return id;
    }

    /**
     * Writes ID.json, whole or not at all.
     *
     * @param id checked
     * @param json the report
     * @return the file
     * @throws IOException the folder cannot be written
     */
    public File writeReport(String id, String json) throws IOException {
        return write(checkedId(id) + ".json", json);
    }

    /**
     * Writes ID.error, so that who waits for the report learns why there is none.
     *
     * @param id checked
     * @param words what went wrong
     * @throws IOException the folder cannot be written
     */
    public void writeError(String id, String words) throws IOException {
        write(checkedId(id) + ".error", words.replaceAll("\\s+", " ").trim() + "\n");
    }

    private File write(String name, String text) throws IOException {
        if (folder == null) {
            throw new IOException("the phone's shared storage is not mounted");
        }
        File temporary = File.createTempFile("report", ".part", folder);
        try {
            try (FileOutputStream stream = new FileOutputStream(temporary)) {
                stream.write(text.getBytes(StandardCharsets.UTF_8));
                stream.getFD().sync();
            }
            File file = new File(folder, name);
            if (!temporary.renameTo(file)) {
                throw new IOException(file + " cannot be written");
            }
            return file;
        } finally {
            temporary.delete();
        }
    }
}
