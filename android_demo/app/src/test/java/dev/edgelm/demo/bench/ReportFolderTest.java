package dev.edgelm.demo.bench;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;

import dev.edgelm.core.EdgeLmException;
import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.Arrays;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

public final class ReportFolderTest {
    @Rule public final TemporaryFolder temporary = new TemporaryFolder();

    @Test
    public void reportsAndErrorsReplaceOlderOnes() throws IOException {
        ReportFolder folder = new ReportFolder(temporary.getRoot());
        folder.writeReport("a", "old");
        File report = folder.writeReport("a", "{\"é\": 1}");
        folder.writeError("a", "two\n  lines");
        assertEquals("{\"é\": 1}", text(report));
        assertEquals("two lines\n", text(new File(temporary.getRoot(), "a.error")));
        String[] left = temporary.getRoot().list();
        Arrays.sort(left);
        assertArrayEquals(new String[] {"a.error", "a.json"}, left); // and no temporary file
    }

    @Test
    public void idsThatCouldLeaveTheFolder() {
        ReportFolder folder = new ReportFolder(temporary.getRoot());
        assertThrows(EdgeLmException.class, () -> folder.writeReport("../a", "{}"));
        assertThrows(EdgeLmException.class, () -> folder.writeError(null, "words"));
        assertEquals(0, temporary.getRoot().list().length);
    }

    @Test
    public void storageThatIsNotMounted() {
        assertThrows(IOException.class, () -> new ReportFolder(null).writeReport("a", "{}"));
    }

    private static String text(File file) throws IOException {
        return new String(Files.readAllBytes(file.toPath()), StandardCharsets.UTF_8);
    }
}
