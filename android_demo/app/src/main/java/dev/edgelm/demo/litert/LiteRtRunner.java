package dev.edgelm.demo.litert;

import dev.edgelm.core.EdgeLmException;
import dev.edgelm.core.ModelRunner;
import dev.edgelm.core.Signature;
import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.tensorflow.lite.Interpreter;

/**
 * The engine's model on the LiteRT library for Android.
 *
 * <p>Of the two APIs in {@code com.google.ai.edge.litert:litert}, {@code Interpreter} is used, not {@code CompiledModel}: the
 * latter's buffers are written and read only as whole Kotlin arrays, which would copy every cache through the Java heap on each token.
 * {@code Interpreter} takes the direct buffers of this class as they are, at the price of one {@code memcpy} per tensor and call, and
 * selects signatures by name.
 */
public final class LiteRtRunner implements ModelRunner {
    /** The version in the version catalog; tests hold both against edgelm's pin. */
    public static final String VERSION = "2.1.0";

    private final Interpreter interpreter;
    private final Map<String, Signature> opened = new HashMap<>();

    private LiteRtRunner(Interpreter interpreter) {
        this.interpreter = interpreter;
    }

    /**
     * Whether this build of the app has the runtime: APKs that were built offline lack it.
     *
     * @return whether models can run
     */
    public static boolean isAvailable() {
        try {
            Class.forName("org.tensorflow.lite.Interpreter", false, LiteRtRunner.class.getClassLoader());
            return true;
        } catch (ClassNotFoundException missing) {
            return false;
        }
    }

    /**
     * Loads a model.
     *
     * @param model the .tflite, memory-mapped or direct and in native byte order; it must outlive the runner
     * @param threads size of the runtime's thread pool
     * @return the runner
     * @throws EdgeLmException the runtime is missing or refuses the file
     */
    public static LiteRtRunner open(ByteBuffer model, int threads) {
        try {
            Interpreter.Options options = new Interpreter.Options().setNumThreads(threads); // XNNPACK is its default
            return new LiteRtRunner(new Interpreter(model, options));
        } catch (LinkageError missing) {
            throw new EdgeLmException(
                    "this build of the app has no LiteRT runtime for this phone", "arm64-v8a, x86_64", "gradlew installDebug", missing);
        } catch (IllegalArgumentException | IllegalStateException refused) {
            throw new EdgeLmException(
                    "LiteRT " + VERSION + " refuses the model: " + refused.getMessage(), "", "edgelm check MODEL", refused);
        }
    }

    @Override
    public List<String> signatures() {
        return Arrays.asList(interpreter.getSignatureKeys());
    }

    @Override
    public Signature signature(String name) {
        Signature signature = opened.get(name);
        if (signature == null) {
            if (!signatures().contains(name)) {
                throw new EdgeLmException("the model has no signature " + name, signatures().toString());
            }
            signature = new LiteRtSignature(interpreter, name);
            opened.put(name, signature);
        }
        return signature;
    }

    @Override
    public void close() {
        opened.clear();
        interpreter.close();
    }
}
