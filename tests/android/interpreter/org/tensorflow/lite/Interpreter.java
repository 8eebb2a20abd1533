package org.tensorflow.lite;

import dev.edgelm.core.Artifact;
import dev.edgelm.core.Manifest;
import dev.edgelm.core.Signature;
import dev.edgelm.core.TensorSpec;
import dev.edgelm.jvm.LiteRtRunner;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.util.Map;

/**
 * The part of LiteRT's Interpreter that the app's adapter uses, on this machine's real LiteRT library.
 *
 * <p>It handles buffers as the Android library does (TensorImpl): a direct input is copied whole, whatever its position; an output is put
 * at the buffer's position, which moves and has to leave enough room; models come mapped or direct.
 */
public final class Interpreter implements InterpreterApi {
    public static class Options extends InterpreterApi.Options {
        public Options setNumThreads(int numThreads) {
            return this;
        }
    }

    private final LiteRtRunner runner;
    private final Manifest manifest;

    public Interpreter(ByteBuffer byteBuffer, Options options) {
        if (!byteBuffer.isDirect()) {
            throw new IllegalArgumentException("Model ByteBuffer should be either a MappedByteBuffer or a direct ByteBuffer");
        }
        manifest = Artifact.open(byteBuffer).manifest();
        runner = new LiteRtRunner(copy(byteBuffer));
    }

    private static File copy(ByteBuffer model) {
        try {
            File file = File.createTempFile("model", ".tflite");
            file.deleteOnExit();
            try (FileOutputStream stream = new FileOutputStream(file)) {
                stream.getChannel().write(model.duplicate());
            }
            return file;
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    public String[] getSignatureKeys() {
        return manifest.signatures().keySet().toArray(new String[0]);
    }

    public String[] getSignatureInputs(String signatureKey) {
        return manifest.signatures().get(signatureKey).inputs().keySet().toArray(new String[0]);
    }

    public String[] getSignatureOutputs(String signatureKey) {
        return manifest.signatures().get(signatureKey).outputs().keySet().toArray(new String[0]);
    }

    public Tensor getInputTensorFromSignature(String inputName, String signatureKey) {
        return tensor(manifest.signatures().get(signatureKey).inputs().get(inputName));
    }

    public Tensor getOutputTensorFromSignature(String outputName, String signatureKey) {
        return tensor(manifest.signatures().get(signatureKey).outputs().get(outputName));
    }

    public void runSignature(Map<String, Object> inputs, Map<String, Object> outputs, String signatureKey) {
        Signature signature = runner.signature(signatureKey);
        for (Map.Entry<String, Object> input : inputs.entrySet()) {
            ByteBuffer whole = ((ByteBuffer) input.getValue()).duplicate();
            whole.clear();
            ByteBuffer tensor = signature.input(input.getKey()).duplicate();
            tensor.clear();
            if (whole.capacity() != tensor.capacity()) {
                throw new IllegalArgumentException("Cannot copy to a TensorFlowLite tensor from a Java Buffer of another size");
            }
            tensor.put(whole);
        }
        signature.run();
        for (Map.Entry<String, Object> output : outputs.entrySet()) {
            ByteBuffer tensor = signature.output(output.getKey()).duplicate();
            tensor.clear();
            ((ByteBuffer) output.getValue()).put(tensor);
        }
    }

    @Override
    public void close() {
        runner.close();
    }

    private static Tensor tensor(TensorSpec spec) {
        return new Tensor() {
            @Override
            public int[] shape() {
                return spec.shape();
            }

            @Override
            public int numBytes() {
                return (int) spec.bytes();
            }
        };
    }
}
