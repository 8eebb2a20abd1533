package dev.edgelm.jvm;

import com.sun.jna.Native;
import com.sun.jna.NativeLibrary;
import com.sun.jna.Pointer;
import com.sun.jna.ptr.LongByReference;
import com.sun.jna.ptr.PointerByReference;
import dev.edgelm.core.EdgeLmException;

/**
 * The part of LiteRT's C API that the runner needs, as {@code libLiteRt.so} 2.1 exports it on 64-bit systems ({@code
 * edgelm/native/litert_c.h} describes it).
 *
 * <p>JNA binds each method to the C function of its name ("direct mapping", which creates no objects in a call). {@code size_t} is
 * {@code long}.
 */
final class LiteRtLibrary {
    static final int CPU = 1;

    /** Bytes of LiteRtRankedTensorType: element type, rank, eight sizes, eight strides. */
    static final int TENSOR_TYPE_BYTES = 72;

    static final int DIMENSIONS_OFFSET = 8;
    static final int RANK_OFFSET = 4;
    static final int RANK_MASK = 0x7f;

    static {
        String path = System.getProperty("edgelm.litert.library");
        if (path == null) {
            throw new EdgeLmException("no LiteRT library was named", "-Dedgelm.litert.library=.../ai_edge_litert/libLiteRt.so");
        }
        Native.register(LiteRtLibrary.class, NativeLibrary.getInstance(path));
    }

    private LiteRtLibrary() {}

    static native String LiteRtGetStatusString(int status);

    static native int LiteRtCreateEnvironment(int count, Pointer options, PointerByReference environment);

    static native void LiteRtDestroyEnvironment(Pointer environment);

    static native int LiteRtCreateModelFromFile(String path, PointerByReference model);

    static native void LiteRtDestroyModel(Pointer model);

    static native int LiteRtGetNumModelSignatures(Pointer model, LongByReference count);

    static native int LiteRtGetModelSignature(Pointer model, long index, PointerByReference signature);

    static native int LiteRtGetSignatureKey(Pointer signature, PointerByReference key);

    static native int LiteRtGetSignatureSubgraph(Pointer signature, PointerByReference subgraph);

    static native int LiteRtGetNumSignatureInputs(Pointer signature, LongByReference count);

    static native int LiteRtGetNumSignatureOutputs(Pointer signature, LongByReference count);

    static native int LiteRtGetSignatureInputName(Pointer signature, long index, PointerByReference name);

    static native int LiteRtGetSignatureOutputName(Pointer signature, long index, PointerByReference name);

    static native int LiteRtGetSignatureInputTensorByIndex(Pointer signature, long index, PointerByReference tensor);

    static native int LiteRtGetSignatureOutputTensorByIndex(Pointer signature, long index, PointerByReference tensor);

    static native int LiteRtGetSubgraphInput(Pointer subgraph, long index, PointerByReference tensor);

    static native int LiteRtGetSubgraphOutput(Pointer subgraph, long index, PointerByReference tensor);

    static native int LiteRtGetRankedTensorType(Pointer tensor, Pointer type);

    static native int LiteRtCreateOptions(PointerByReference options);

    static native void LiteRtDestroyOptions(Pointer options);

    static native int LiteRtSetOptionsHardwareAccelerators(Pointer options, int accelerators);

    static native int LiteRtCreateCompiledModel(Pointer environment, Pointer model, Pointer options, PointerByReference compiled);

    static native void LiteRtDestroyCompiledModel(Pointer compiled);

    static native int LiteRtRunCompiledModel(
            Pointer compiled, long signature, long inputCount, Pointer inputs, long outputCount, Pointer outputs);

    static native int LiteRtCreateTensorBufferFromHostMemory(
            Pointer type, Pointer memory, long bytes, Pointer deallocator, PointerByReference buffer);

    static native void LiteRtDestroyTensorBuffer(Pointer buffer);

    /** Turns a status that is not 0 into an error. */
    static void check(int status, String doing) {
        if (status != 0) {
            throw new EdgeLmException(doing + " failed: LiteRT says " + LiteRtGetStatusString(status));
        }
    }
}
