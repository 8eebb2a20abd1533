package dev.edgelm.demo.engine;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;

import dev.edgelm.core.EdgeLmException;
import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import org.junit.Before;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

public final class OwnFilesTest {
    private static final String SHELL = "/sdcard/Android/data/dev.edgelm.demo/files/";

    @Rule public final TemporaryFolder temporary = new TemporaryFolder();
    private File external;
    private File secret;
    private OwnFiles own;

    @Before
    public void folders() throws IOException {
        File internal = temporary.newFolder("internal");
        external = temporary.newFolder("external");
        secret = temporary.newFile("secret.tflite");
        Files.createFile(new File(external, "pushed.tflite").toPath());
        own = new OwnFiles(internal, external, SHELL);
    }

    @Test
    public void theShellsNameOfTheFolder() throws IOException {
        assertEquals(new File(external, "pushed.tflite").getCanonicalFile(), own.resolve(SHELL + "pushed.tflite", ".tflite"));
    }

    @Test
    public void pathsThatLeadOut() throws IOException {
        Files.createSymbolicLink(new File(external, "link.tflite").toPath(), secret.toPath());
        String beside = external + "x/a.tflite";
        for (String path : new String[] {secret.getPath(), SHELL + "../secret.tflite", SHELL + "link.tflite", beside, "/"}) {
            EdgeLmException error = assertThrows(path, EdgeLmException.class, () -> own.resolve(path, ".tflite"));
            assertEquals("the file " + path + " is not this app's", error.what());
        }
    }

    @Test
    public void filesThatAreNone() throws IOException {
        new File(external, "folder.tflite").mkdir();
        Files.createFile(new File(external, "notes.txt").toPath());
        for (String name : new String[] {"absent.tflite", "folder.tflite", "notes.txt"}) {
            assertThrows(name, EdgeLmException.class, () -> own.resolve(SHELL + name, ".tflite"));
        }
    }
}
