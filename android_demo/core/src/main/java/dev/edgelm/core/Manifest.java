package dev.edgelm.core;

import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;

/** What an artifact says of itself: {@code manifest.json}. */
public final class Manifest {
    private static final int SCHEMA_VERSION = 1;

    private final String name;
    private final String family;
    private final String recipe;
    private final String target;
    private final int parameters;
    private final int vocabSize;
    private final String minimumRuntime;
    private final String flatbufferSha256;
    private final Map<String, SignatureSpec> signatures;

    private Manifest(Fields fields) {
        if (fields.count("schema_version", 0) != SCHEMA_VERSION) {
            String met = String.valueOf(fields.count("schema_version", 0));
            throw new EdgeLmException("the manifest has version " + met, String.valueOf(SCHEMA_VERSION), "update this app", null);
        }
        Fields spec = fields.object("spec");
        Fields recipeFields = fields.object("recipe");
        name = fields.text("name");
        family = spec == null ? "" : spec.text("family", "");
        vocabSize = spec == null ? 0 : spec.count("vocab_size", 0);
        recipe = recipeFields == null ? "" : recipeFields.text("name", "");
        target = fields.text("target", "");
        parameters = fields.count("parameters", 0);
        minimumRuntime = fields.text("minimum_runtime", "");
        flatbufferSha256 = fields.text("flatbuffer_sha256", "");
        Map<String, SignatureSpec> found = new LinkedHashMap<>();
        Fields described = fields.object("signatures");
        if (described != null) {
            for (String signature : described.keys()) {
                found.put(signature, new SignatureSpec(described.object(signature)));
            }
        }
        signatures = Collections.unmodifiableMap(found);
    }

    /**
     * Reads a manifest.
     *
     * @param json the content of {@code manifest.json}, UTF-8
     * @return the manifest
     * @throws EdgeLmException it is damaged or of another version
     */
    public static Manifest parse(byte[] json) {
        return new Manifest(Fields.of(JsonValues.read(json, Artifact.MANIFEST), Artifact.MANIFEST));
    }

    /**
     * The model's name.
     *
     * @return such as {@code keyboard-lstm}
     */
    public String name() {
        return name;
    }

    /**
     * The family of the model.
     *
     * @return {@code recurrent} or {@code transformer}; empty for a graph that was converted as it is
     */
    public String family() {
        return family;
    }

    /**
     * How it was compressed.
     *
     * @return name of the recipe, such as {@code int8}
     */
    public String recipe() {
        return recipe;
    }

    /**
     * What it was made for.
     *
     * @return name of a device profile, such as {@code android-arm64}
     */
    public String target() {
        return target;
    }

    /**
     * The number of parameters.
     *
     * @return 0 when unknown
     */
    public int parameters() {
        return parameters;
    }

    /**
     * Columns of the logits.
     *
     * @return 0 when unknown
     */
    public int vocabSize() {
        return vocabSize;
    }

    /**
     * The oldest runtime that has every op of the file.
     *
     * @return such as {@code ai-edge-litert 2.1.0}; empty when unknown
     */
    public String minimumRuntime() {
        return minimumRuntime;
    }

    /**
     * The callable graphs.
     *
     * @return name to signature, unmodifiable
     */
    public Map<String, SignatureSpec> signatures() {
        return signatures;
    }

    /** SHA-256 of the flatbuffer before the ZIP archive, in hexadecimal digits; empty when unknown. */
    String flatbufferSha256() {
        return flatbufferSha256;
    }
}
