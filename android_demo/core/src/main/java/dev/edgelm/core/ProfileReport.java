package dev.edgelm.core;

import java.util.Map;

/**
 * A measurement with everything around it, as the JSON that {@code edgelm profile --import} and {@code edgelm profiles calibrate} read.
 *
 * <p>What is not set is written as unknown: an empty text, 0, an empty list.
 */
public final class ProfileReport {
    /** The schema the text follows. */
    public static final String SCHEMA = "edgelm-profile/1";

    private final Measurement measured;
    private String madeBy = "app";
    private String toolVersion = "";
    private String startedAt = "";
    private String modelName = "";
    private String modelSha256 = "";
    private long modelBytes;
    private Device device = Device.UNKNOWN;
    private String runtimeName = "";
    private String runtimeVersion = "";
    private int threads;
    private double loadMs;
    private double memoryBeforeMb;

    /**
     * A report.
     *
     * @param measured the times
     */
    public ProfileReport(Measurement measured) {
        this.measured = measured;
        this.memoryBeforeMb = measured.memoryBeforeMb();
    }

    /**
     * Sets the model. Reads all of it for its checksum.
     *
     * @param artifact what ran
     * @return this
     */
    public ProfileReport model(Artifact artifact) {
        return model(artifact.manifest().name(), artifact.sha256(), artifact.bytes());
    }

    /**
     * Sets the model.
     *
     * @param name the artifact's
     * @param sha256 of the .tflite, 64 hexadecimal digits
     * @param bytes of the .tflite
     * @return this
     */
    public ProfileReport model(String name, String sha256, long bytes) {
        modelName = name;
        modelSha256 = sha256;
        modelBytes = bytes;
        return this;
    }

    /**
     * Sets what it ran on.
     *
     * @param described the device
     * @return this
     */
    public ProfileReport device(Device described) {
        device = described;
        return this;
    }

    /**
     * Sets the runtime.
     *
     * @param name such as {@code ai-edge-litert}
     * @param version such as {@code 2.1.0}
     * @param usedThreads threads of its pool
     * @return this
     */
    public ProfileReport runtime(String name, String version, int usedThreads) {
        runtimeName = name;
        runtimeVersion = version;
        threads = usedThreads;
        return this;
    }

    /**
     * Sets the program that measured.
     *
     * @param maker {@code app}, which it is unless set, or {@code host}
     * @return this
     */
    public ProfileReport madeBy(String maker) {
        madeBy = maker;
        return this;
    }

    /**
     * Sets the version of that program.
     *
     * @param version such as {@code 0.1.0}
     * @return this
     */
    public ProfileReport toolVersion(String version) {
        toolVersion = version;
        return this;
    }

    /**
     * Sets when the run began.
     *
     * @param instant ISO 8601 in UTC, such as {@code 2026-11-22T10:00:00Z}
     * @return this
     */
    public ProfileReport startedAt(String instant) {
        startedAt = instant;
        return this;
    }

    /**
     * Sets how long the runtime took to load the model.
     *
     * @param ms milliseconds
     * @return this
     */
    public ProfileReport loadMs(double ms) {
        loadMs = ms;
        return this;
    }

    /**
     * Sets the memory before the model was loaded; without it, what the profiler saw before its first call.
     *
     * @param mb MB of 10^6 bytes
     * @return this
     */
    public ProfileReport memoryBeforeMb(double mb) {
        memoryBeforeMb = mb;
        return this;
    }

    /**
     * The report as JSON.
     *
     * @return one object of the schema {@link #SCHEMA}, UTF-8 when written as such
     */
    public String toJson() {
        JsonWriter json = new JsonWriter().begin('{');
        json.key("schema").value(SCHEMA).key("made_by").value(madeBy).key("tool_version").value(toolVersion);
        json.key("started_at").value(startedAt);
        json.key("model").begin('{').key("name").value(modelName).key("sha256").value(modelSha256);
        json.key("bytes").value(modelBytes).end('}');
        writeDevice(json);
        json.key("runtime").begin('{').key("name").value(runtimeName).key("version").value(runtimeVersion);
        json.key("threads").value(threads).end('}');
        json.key("load_ms").value(loadMs).key("first_token_ms").value(measured.firstTokenMs());
        writeDecode(json);
        writePrefill(json);
        json.key("memory").begin('{').key("before_mb").value(memoryBeforeMb);
        json.key("peak_mb").value(measured.memoryPeakMb()).end('}');
        json.key("thermal").begin('[');
        for (Measurement.Thermal look : measured.thermal()) {
            json.begin('{').key("at_ms").value(look.atMs()).key("status").value(look.status()).end('}');
        }
        return json.end(']').end('}').toString();
    }

    private void writeDevice(JsonWriter json) {
        json.key("device").begin('{').key("manufacturer").value(device.manufacturer()).key("model").value(device.model());
        json.key("soc").value(device.soc()).key("abi").value(device.abi()).key("android_api").value(device.androidApi());
        json.key("cores").value(device.cores()).key("ram_mb").value(device.ramMb()).key("features").begin('[');
        for (String feature : device.features()) {
            json.value(feature);
        }
        json.end(']').end('}');
    }

    private void writeDecode(JsonWriter json) {
        json.key("decode").begin('{').key("signature_ms").begin('{');
        for (Map.Entry<String, double[]> signature : measured.signatureMs().entrySet()) {
            json.key(signature.getKey());
            writeTimes(json, signature.getValue());
        }
        json.end('}').key("warmup").value(measured.warmup()).end('}');
    }

    private void writePrefill(JsonWriter json) {
        json.key("prefill");
        if (measured.prefillTokens() == 0) {
            json.nothing();
            return;
        }
        json.begin('{').key("tokens").value(measured.prefillTokens()).key("ms");
        writeTimes(json, measured.prefillMs());
        json.end('}');
    }

    private static void writeTimes(JsonWriter json, double[] times) {
        json.begin('[');
        for (double ms : times) {
            json.value(ms);
        }
        json.end(']');
    }
}
