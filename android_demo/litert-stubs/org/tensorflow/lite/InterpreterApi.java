package org.tensorflow.lite;

/** Compile-only. Documented at https://ai.google.dev/edge/api/tflite/java/org/tensorflow/lite/InterpreterApi */
public interface InterpreterApi extends AutoCloseable {
    /** The parent of {@link Interpreter.Options}. */
    class Options {}

    @Override
    void close();
}
