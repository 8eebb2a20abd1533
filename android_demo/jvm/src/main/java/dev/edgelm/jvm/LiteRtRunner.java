package dev.edgelm.jvm;

import static dev.edgelm.jvm.LiteRtLibrary.check;

import com.sun.jna.Pointer;
import com.sun.jna.ptr.LongByReference;
import com.sun.jna.ptr.PointerByReference;
import dev.edgelm.core.EdgeLmException;
import dev.edgelm.core.ModelRunner;
import dev.edgelm.core.Signature;
import java.io.File;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** A model on LiteRT's C API, on one thread of the CPU. */
public final class LiteRtRunner implements ModelRunner {
    private final List<String> names = new ArrayList<>();
    private final Map<String, LiteRtSignature> allocated = new HashMap<>();
    private Pointer environment;
    private Pointer model;
    private Pointer options;
    private Pointer compiled;

    /**
     * Loads a model.
     *
     * @param file a .tflite
     * @throws EdgeLmException LiteRT refuses it
     */
    public LiteRtRunner(File file) {
        try {
            PointerByReference made = new PointerByReference();
            check(LiteRtLibrary.LiteRtCreateEnvironment(0, null, made), "starting LiteRT");
            environment = made.getValue();
            check(LiteRtLibrary.LiteRtCreateModelFromFile(file.getPath(), made), "reading " + file);
            model = made.getValue();
            check(LiteRtLibrary.LiteRtCreateOptions(made), "starting LiteRT");
            options = made.getValue();
            check(LiteRtLibrary.LiteRtSetOptionsHardwareAccelerators(options, LiteRtLibrary.CPU), "choosing the CPU");
            check(LiteRtLibrary.LiteRtCreateCompiledModel(environment, model, options, made), "preparing " + file);
            compiled = made.getValue();
            readNames();
        } catch (EdgeLmException error) {
            close();
            throw error;
        }
    }

    @Override
    public List<String> signatures() {
        return new ArrayList<>(names);
    }

    @Override
    public Signature signature(String name) {
        int index = names.indexOf(name);
        if (index < 0) {
            throw new EdgeLmException("the model has no signature " + name, String.join(", ", names));
        }
        return allocated.computeIfAbsent(name, key -> new LiteRtSignature(compiled, signatureAt(index), index, name));
    }

    @Override
    public void close() {
        for (LiteRtSignature signature : allocated.values()) {
            signature.free();
        }
        allocated.clear();
        if (compiled != null) {
            LiteRtLibrary.LiteRtDestroyCompiledModel(compiled);
        }
        if (options != null) {
            LiteRtLibrary.LiteRtDestroyOptions(options);
        }
        if (model != null) {
            LiteRtLibrary.LiteRtDestroyModel(model);
        }
        if (environment != null) {
            LiteRtLibrary.LiteRtDestroyEnvironment(environment);
        }
        compiled = options = model = environment = null;
    }

    private void readNames() {
        LongByReference count = new LongByReference();
        check(LiteRtLibrary.LiteRtGetNumModelSignatures(model, count), "reading the signatures");
        for (int index = 0; index < count.getValue(); index++) {
            PointerByReference key = new PointerByReference();
            check(LiteRtLibrary.LiteRtGetSignatureKey(signatureAt(index), key), "reading the signatures");
            names.add(key.getValue().getString(0, "UTF-8"));
        }
    }

    private Pointer signatureAt(int index) {
        PointerByReference found = new PointerByReference();
        check(LiteRtLibrary.LiteRtGetModelSignature(model, index, found), "reading the signatures");
        return found.getValue();
    }
}
