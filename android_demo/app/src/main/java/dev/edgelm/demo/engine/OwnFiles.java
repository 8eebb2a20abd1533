package dev.edgelm.demo.engine;

import dev.edgelm.core.EdgeLmException;
import java.io.File;
import java.io.IOException;

/**
 * The app's own folders, and nothing else: paths that come from outside are held against them.
 *
 * <p>Symbolic links are followed before the comparison, so that none leads out.
 */
final class OwnFiles {
    private final File internal;
    private final File external;
    private final String shellName;

    /**
     * The folders of an app.
     *
     * @param internal of the app alone
     * @param external shared with a computer that is connected; null while the storage is not mounted
     * @param shellName what {@code adb push} calls the external one, with a slash at its end
     */
    OwnFiles(File internal, File external, String shellName) {
        this.internal = internal;
        this.external = external;
        this.shellName = shellName;
    }

    /**
     * A readable file in one of the folders.
     *
     * @param path absolute, of any origin
     * @param ending the file's name has to have
     * @return the file, without symbolic links
     * @throws EdgeLmException it is elsewhere, has another ending, or cannot be read
     * @throws IOException the path cannot be looked up
     */
    File resolve(String path, String ending) throws IOException {
        boolean shell = external != null && path.startsWith(shellName);
        File file = (shell ? new File(external, path.substring(shellName.length())) : new File(path)).getCanonicalFile();
        boolean own = isInside(file, internal) || (external != null && isInside(file, external));
        if (!own || !file.getName().endsWith(ending)) {
            throw new EdgeLmException("the file " + path + " is not this app's", "a " + ending + " in " + shellName);
        }
        if (!file.isFile() || !file.canRead()) {
            throw new EdgeLmException("the file " + path + " cannot be read", "", "adb push FILE " + shellName, null);
        }
        return file;
    }

    private static boolean isInside(File file, File folder) throws IOException {
        return file.getPath().startsWith(folder.getCanonicalPath() + File.separator);
    }
}
