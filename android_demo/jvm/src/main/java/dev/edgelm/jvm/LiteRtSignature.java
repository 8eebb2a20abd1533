package dev.edgelm.jvm;

import static dev.edgelm.jvm.LiteRtLibrary.check;

import com.sun.jna.Memory;
import com.sun.jna.Native;
import com.sun.jna.Pointer;
import com.sun.jna.ptr.LongByReference;
import com.sun.jna.ptr.PointerByReference;
import dev.edgelm.core.EdgeLmException;
import dev.edgelm.core.Signature;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.LinkedHashMap;
import java.util.Map;

/** One signature with its tensors in memory of the JVM, which LiteRT reads and writes without copies. */
final class LiteRtSignature implements Signature {
    private static final int ALIGNMENT = 64; // what LiteRtCreateTensorBufferFromHostMemory asks of an address
    private static final int ROOM_BEHIND = 64; // XNNPACK reads up to 16 bytes past a tensor

    private interface Count {
        int of(Pointer signature, LongByReference count);
    }

    private interface Item {
        int of(Pointer owner, long index, PointerByReference item);
    }

    private static final class Tensor {
        Memory memory; // keeps `bytes` alive
        ByteBuffer bytes;
        int[] shape;
        Pointer buffer;
    }

    private final Pointer compiled;
    private final long index;
    private final String name;
    private final Map<String, Tensor> inputs;
    private final Map<String, Tensor> outputs;
    private final Memory inputBuffers;
    private final Memory outputBuffers;

    LiteRtSignature(Pointer compiled, Pointer signature, int index, String name) {
        this.compiled = compiled;
        this.index = index;
        this.name = name;
        PointerByReference subgraph = new PointerByReference();
        check(LiteRtLibrary.LiteRtGetSignatureSubgraph(signature, subgraph), "reading signature " + name);
        long inputCount = count(signature, LiteRtLibrary::LiteRtGetNumSignatureInputs);
        inputBuffers = new Memory(inputCount * Native.POINTER_SIZE);
        Pointer[] order = items(subgraph.getValue(), inputCount, LiteRtLibrary::LiteRtGetSubgraphInput);
        Pointer[] tensors = items(signature, inputCount, LiteRtLibrary::LiteRtGetSignatureInputTensorByIndex);
        inputs = tensors(items(signature, inputCount, LiteRtLibrary::LiteRtGetSignatureInputName), tensors, order, inputBuffers);
        long outputCount = count(signature, LiteRtLibrary::LiteRtGetNumSignatureOutputs);
        outputBuffers = new Memory(outputCount * Native.POINTER_SIZE);
        order = items(subgraph.getValue(), outputCount, LiteRtLibrary::LiteRtGetSubgraphOutput);
        tensors = items(signature, outputCount, LiteRtLibrary::LiteRtGetSignatureOutputTensorByIndex);
        outputs = tensors(items(signature, outputCount, LiteRtLibrary::LiteRtGetSignatureOutputName), tensors, order, outputBuffers);
    }

    @Override
    public int[] inputShape(String input) {
        return tensor(inputs, input).shape.clone();
    }

    @Override
    public ByteBuffer input(String input) {
        return tensor(inputs, input).bytes;
    }

    @Override
    public ByteBuffer output(String output) {
        return tensor(outputs, output).bytes;
    }

    @Override
    public void run() {
        int status =
                LiteRtLibrary.LiteRtRunCompiledModel(compiled, index, inputs.size(), inputBuffers, outputs.size(), outputBuffers);
        if (status != 0) {
            check(status, "running signature " + name);
        }
    }

    void free() {
        for (Tensor tensor : inputs.values()) {
            LiteRtLibrary.LiteRtDestroyTensorBuffer(tensor.buffer);
        }
        for (Tensor tensor : outputs.values()) {
            LiteRtLibrary.LiteRtDestroyTensorBuffer(tensor.buffer);
        }
    }

    private Tensor tensor(Map<String, Tensor> tensors, String wanted) {
        if (!tensors.containsKey(wanted)) {
            throw new EdgeLmException("signature " + name + " has no tensor named " + wanted, String.join(", ", tensors.keySet()));
        }
        return tensors.get(wanted);
    }

    /** Allocates tensors. The signature lists them in one order, LiteRT takes them in the subgraph's. */
    private static Map<String, Tensor> tensors(Pointer[] names, Pointer[] handles, Pointer[] order, Memory buffers) {
        Map<String, Tensor> tensors = new LinkedHashMap<>();
        for (int i = 0; i < names.length; i++) {
            Tensor tensor = allocate(handles[i]);
            tensors.put(names[i].getString(0, "UTF-8"), tensor);
            for (int place = 0; place < order.length; place++) {
                if (order[place].equals(handles[i])) {
                    buffers.setPointer((long) place * Native.POINTER_SIZE, tensor.buffer);
                }
            }
        }
        return tensors;
    }

    private static Tensor allocate(Pointer handle) {
        Memory type = new Memory(LiteRtLibrary.TENSOR_TYPE_BYTES);
        check(LiteRtLibrary.LiteRtGetRankedTensorType(handle, type), "reading a tensor");
        Tensor tensor = new Tensor();
        int rank = type.getByte(LiteRtLibrary.RANK_OFFSET) & LiteRtLibrary.RANK_MASK;
        tensor.shape = type.getIntArray(LiteRtLibrary.DIMENSIONS_OFFSET, rank);
        long bytes = elementBytes(type.getInt(0));
        for (int size : tensor.shape) {
            bytes *= size;
        }
        Memory block = new Memory(bytes + ROOM_BEHIND + ALIGNMENT);
        block.clear();
        tensor.memory = block.align(ALIGNMENT);
        tensor.bytes = tensor.memory.getByteBuffer(0, bytes).order(ByteOrder.nativeOrder());
        PointerByReference buffer = new PointerByReference();
        check(
                LiteRtLibrary.LiteRtCreateTensorBufferFromHostMemory(type, tensor.memory, bytes, null, buffer),
                "making the buffer of a tensor");
        tensor.buffer = buffer.getValue();
        return tensor;
    }

    /** Bytes of the element types that edgelm's graphs take and give (litert_model_types.h). */
    private static int elementBytes(int type) {
        switch (type) {
            case 1: // float32
            case 2: // int32
                return 4;
            case 4: // int64
                return 8;
            case 9: // int8
                return 1;
            default:
                throw new EdgeLmException("a tensor has elements of LiteRT's type " + type, "float32, int32, int64, int8");
        }
    }

    private static long count(Pointer signature, Count counter) {
        LongByReference count = new LongByReference();
        check(counter.of(signature, count), "reading a signature");
        return count.getValue();
    }

    private static Pointer[] items(Pointer owner, long count, Item getter) {
        Pointer[] items = new Pointer[(int) count];
        for (int i = 0; i < items.length; i++) {
            PointerByReference item = new PointerByReference();
            check(getter.of(owner, i, item), "reading a signature");
            items[i] = item.getValue();
        }
        return items;
    }
}
