package @PACKAGE@;

@IMPORTS@

/**
 * The language model @MODEL_NAME@: recipe @RECIPE@ (@RECIPE_TEXT@), @MEGABYTES@ MB.
 *
 * <p>Written by edgelm @EDGELM@ for @TARGET@. Opening and every call belong on a background thread, one at a time: nothing here is
 * thread-safe. Every error an app or its developer can mend is an {@link EdgeLmException}.
 */
public final class @CLASS@ implements AutoCloseable {
    /** The model's file in the assets. */
    public static final String ASSET = "@MODEL_FILE@";

    /** Bytes of the model. */
    public static final long BYTES = @BYTES@L;

    /** Hash of the model's bytes. */
    public static final String SHA256 = "@SHA256@";

    /** How the weights were made small. */
    public static final String RECIPE = @RECIPE_LITERAL@;

    /** Weights of the model; 0 for a graph that was converted as it is. */
    public static final long PARAMETERS = @PARAMETERS@L;

    /** Token ids are 0 to this minus 1. */
    public static final int VOCABULARY = @VOCABULARY@;

    /** Tokens a text can have; 0 when there is no end. */
    public static final int CONTEXT = @CONTEXT@;

    private final ModelRunner runner;
@FIELDS@

    /**
     * A model on any runtime.
     *
     * @param artifact the model's file, read
     * @param runner the runtime that has loaded it; {@link #close()} closes it
     * @throws EdgeLmException the file is another model's
     */
    public @CLASS@(Artifact artifact, ModelRunner runner) {
        if (artifact.bytes() != BYTES) {
            throw new EdgeLmException("the model has " + artifact.bytes() + " bytes: it is not the one of this class", BYTES + " bytes");
        }
        this.runner = runner;
@CONSTRUCTION@
    }

    /**
     * Opens the model in this module's assets.
     *
     * @param context any context of the app
     * @param threads of the runtime; 1 is best for models of a few megabytes
     * @return the model, to be closed
     * @throws EdgeLmException the asset is missing or compressed, or the runtime cannot load it
     */
    public static @CLASS@ open(Context context, int threads) {
        ByteBuffer file;
        try (AssetFileDescriptor asset = context.getAssets().openFd(ASSET);
                FileInputStream stream = new FileInputStream(asset.getFileDescriptor())) {
            file = stream.getChannel().map(FileChannel.MapMode.READ_ONLY, asset.getStartOffset(), asset.getLength());
        } catch (IOException failed) {
            throw new EdgeLmException(
                    "the asset " + ASSET + " cannot be mapped: " + failed.getMessage(),
                    "a model that is stored uncompressed in the APK",
                    "androidResources { noCompress += \"tflite\" } in app/build.gradle.kts",
                    failed);
        }
        Artifact artifact = Artifact.open(file);
        ModelRunner runner = LiteRtRunner.open(artifact.model(), threads);
        try {
            return new @CLASS@(artifact, runner);
        } catch (RuntimeException failed) {
            runner.close();
            throw failed;
        }
    }

@MEMBERS@

    /** Frees the model's memory; nothing of it may be used afterwards. */
    @Override
    public void close() {
        runner.close();
    }
}
