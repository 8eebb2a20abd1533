import dev.edgelm.core.Artifact;
import dev.edgelm.core.ModelRunner;
import dev.edgelm.core.Session;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.nio.channels.FileChannel;

/** Feeds the same tokens to the engine on the app's adapter and on the JVM's own: the logits have the same bits. */
public final class AdapterParity {
    private static final int STEPS = 40;

    private AdapterParity() {}

    /**
     * Compares.
     *
     * @param arguments models
     * @throws IOException a model cannot be mapped
     */
    public static void main(String[] arguments) throws IOException {
        for (String path : arguments) {
            Artifact artifact = Artifact.open(map(new File(path)));
            try (ModelRunner app = dev.edgelm.demo.litert.LiteRtRunner.open(artifact.model(), 1);
                    ModelRunner jvm = new dev.edgelm.jvm.LiteRtRunner(new File(path))) {
                int compared = compare(Session.open(artifact.manifest(), app), Session.open(artifact.manifest(), jvm));
                System.out.println(artifact.manifest().name() + " " + compared);
            }
        }
    }

    private static int compare(Session app, Session jvm) {
        int[] prompt = new int[33];
        for (int i = 0; i < prompt.length; i++) {
            prompt[i] = (7 * i + 3) % app.vocabSize();
        }
        int compared = equal(app.prefill(prompt), jvm.prefill(prompt));
        for (int i = 0; i < STEPS; i++) {
            compared += equal(app.step(11 * i % app.vocabSize()), jvm.step(11 * i % jvm.vocabSize()));
        }
        app.reset();
        jvm.reset();
        return compared + equal(app.step(1), jvm.step(1));
    }

    private static int equal(FloatBuffer app, FloatBuffer jvm) {
        for (int i = 0; i < app.capacity(); i++) {
            if (Float.floatToRawIntBits(app.get(i)) != Float.floatToRawIntBits(jvm.get(i))) {
                throw new IllegalStateException("logit " + i + ": " + app.get(i) + " and " + jvm.get(i));
            }
        }
        return app.capacity();
    }

    private static ByteBuffer map(File file) throws IOException {
        try (FileInputStream stream = new FileInputStream(file)) {
            return stream.getChannel().map(FileChannel.MapMode.READ_ONLY, 0, file.length());
        }
    }
}
