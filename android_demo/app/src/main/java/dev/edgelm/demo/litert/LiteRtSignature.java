package dev.edgelm.demo.litert;

import dev.edgelm.core.EdgeLmException;
import dev.edgelm.core.Signature;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.LinkedHashMap;
import java.util.Map;
import org.tensorflow.lite.Interpreter;

/** One signature and the memory of its tensors. */
final class LiteRtSignature implements Signature {
    private final Interpreter interpreter;
    private final String name;
    private final Map<String, int[]> inputShapes = new LinkedHashMap<>();
    private final Map<String, Object> inputs = new LinkedHashMap<>();
    private final Map<String, Object> outputs = new LinkedHashMap<>();
    private final ByteBuffer[] written;

    LiteRtSignature(Interpreter interpreter, String name) {
        this.interpreter = interpreter;
        this.name = name;
        for (String input : interpreter.getSignatureInputs(name)) {
            inputShapes.put(input, interpreter.getInputTensorFromSignature(input, name).shape());
            inputs.put(input, allocate(interpreter.getInputTensorFromSignature(input, name).numBytes()));
        }
        String[] names = interpreter.getSignatureOutputs(name);
        written = new ByteBuffer[names.length];
        for (int i = 0; i < names.length; i++) {
            written[i] = allocate(interpreter.getOutputTensorFromSignature(names[i], name).numBytes());
            outputs.put(names[i], written[i]);
        }
    }

    @Override
    public int[] inputShape(String input) {
        return of(inputShapes, input).clone();
    }

    @Override
    public ByteBuffer input(String input) {
        return (ByteBuffer) of(inputs, input);
    }

    @Override
    public ByteBuffer output(String output) {
        return view((ByteBuffer) of(outputs, output));
    }

    @Override
    public void run() {
        for (ByteBuffer output : written) {
            output.rewind(); // the interpreter puts from the buffer's position and moves it
        }
        try {
            interpreter.runSignature(inputs, outputs, name);
        } catch (IllegalArgumentException | IllegalStateException failed) {
            throw new EdgeLmException(
                    "LiteRT failed in signature " + name + ": " + failed.getMessage(), "", "edgelm check MODEL", failed);
        }
    }

    private static ByteBuffer allocate(int bytes) {
        return ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder());
    }

    /** The same memory with a position of its own. */
    private static ByteBuffer view(ByteBuffer buffer) {
        ByteBuffer view = buffer.duplicate().order(ByteOrder.nativeOrder());
        view.rewind();
        return view;
    }

    private <T> T of(Map<String, T> tensors, String tensor) {
        T found = tensors.get(tensor);
        if (found == null) {
            throw new EdgeLmException("signature " + name + " has no tensor " + tensor, tensors.keySet().toString());
        }
        return found;
    }
}
