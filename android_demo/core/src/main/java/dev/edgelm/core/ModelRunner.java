package dev.edgelm.core;

import java.util.List;

/**
 * A loaded model: the one thing an app has to bring, usually thirty lines around its TFLite runtime.
 *
 * <p>Not thread-safe.
 */
public interface ModelRunner extends AutoCloseable {
    /**
     * The signatures of the file.
     *
     * @return their names, in the order of the file
     */
    List<String> signatures();

    /**
     * A signature, allocated when it is first asked for and the same object ever after.
     *
     * @param name one of {@link #signatures()}
     * @return the signature
     * @throws EdgeLmException there is no such signature, or the runtime cannot prepare it
     */
    Signature signature(String name);

    /** Frees the model and the buffers of its signatures; nothing of them may be used afterwards. */
    @Override
    void close();
}
