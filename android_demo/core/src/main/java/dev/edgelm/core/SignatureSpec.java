package dev.edgelm.core;

import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;

/** Names, types and shapes of one signature, as the manifest states them. */
public final class SignatureSpec {
    private final Map<String, TensorSpec> inputs;
    private final Map<String, TensorSpec> outputs;

    SignatureSpec(Fields fields) {
        inputs = tensors(fields.object("inputs"));
        outputs = tensors(fields.object("outputs"));
    }

    /**
     * The inputs.
     *
     * @return name to tensor, unmodifiable
     */
    public Map<String, TensorSpec> inputs() {
        return inputs;
    }

    /**
     * The outputs.
     *
     * @return name to tensor, unmodifiable
     */
    public Map<String, TensorSpec> outputs() {
        return outputs;
    }

    private static Map<String, TensorSpec> tensors(Fields fields) {
        Map<String, TensorSpec> tensors = new LinkedHashMap<>();
        if (fields != null) {
            for (String name : fields.keys()) {
                Fields tensor = fields.object(name);
                tensors.put(name, new TensorSpec(tensor.text("dtype"), tensor.sizes("shape"), name));
            }
        }
        return Collections.unmodifiableMap(tensors);
    }
}
