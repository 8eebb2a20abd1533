package org.tensorflow.lite;

import java.nio.ByteBuffer;
import java.util.Map;

/**
 * Compile-only: the methods the app uses, as com.google.ai.edge.litert:litert 2.1.0 has them. Never packaged.
 *
 * <p>Documented at https://ai.google.dev/edge/api/tflite/java/org/tensorflow/lite/Interpreter
 */
public final class Interpreter implements InterpreterApi {
    /** Documented at https://ai.google.dev/edge/api/tflite/java/org/tensorflow/lite/Interpreter.Options */
    public static class Options extends InterpreterApi.Options {
        public Options setNumThreads(int numThreads) {
            throw new UnsupportedOperationException("stub");
        }
    }

    public Interpreter(ByteBuffer byteBuffer, Options options) {
        throw new UnsupportedOperationException("stub");
    }

    public String[] getSignatureKeys() {
        throw new UnsupportedOperationException("stub");
    }

    public String[] getSignatureInputs(String signatureKey) {
        throw new UnsupportedOperationException("stub");
    }

    public String[] getSignatureOutputs(String signatureKey) {
        throw new UnsupportedOperationException("stub");
    }

    public Tensor getInputTensorFromSignature(String inputName, String signatureKey) {
        throw new UnsupportedOperationException("stub");
    }

    public Tensor getOutputTensorFromSignature(String outputName, String signatureKey) {
        throw new UnsupportedOperationException("stub");
    }

    public void runSignature(Map<String, Object> inputs, Map<String, Object> outputs, String signatureKey) {
        throw new UnsupportedOperationException("stub");
    }

    @Override
    public void close() {
        throw new UnsupportedOperationException("stub");
    }
}
