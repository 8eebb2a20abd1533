package dev.edgelm.core;

import java.nio.ByteBuffer;

/**
 * One callable graph of a model with the memory of its inputs and outputs.
 *
 * <p>Write the inputs, {@link #run()}, read the outputs. The buffers are direct, in native byte order, zero at first, and the same
 * memory until the runner is closed: sessions take views of them once and keep states and caches in them between calls. A buffer
 * starts at position 0 and holds exactly the bytes of its tensor, row-major.
 */
public interface Signature {
    /**
     * The shape of an input, as the file states it.
     *
     * @param name of the input
     * @return sizes, outermost first
     * @throws EdgeLmException there is no such input
     */
    int[] inputShape(String name);

    /**
     * The memory of an input. {@link #run()} leaves it as it is.
     *
     * @param name of the input
     * @return a direct buffer in native byte order
     * @throws EdgeLmException there is no such input
     */
    ByteBuffer input(String name);

    /**
     * The memory of an output; its values hold until the next {@link #run()}.
     *
     * @param name of the output
     * @return a direct buffer in native byte order
     * @throws EdgeLmException there is no such output
     */
    ByteBuffer output(String name);

    /**
     * Runs the graph.
     *
     * @throws EdgeLmException the runtime failed
     */
    void run();
}
