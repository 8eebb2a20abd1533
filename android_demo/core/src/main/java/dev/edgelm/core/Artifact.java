package dev.edgelm.core;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;

/**
 * A {@code model.tflite} that edgelm wrote: weights, manifest and tokenizer in one file.
 *
 * <pre>{@code
 * AssetFileDescriptor asset = getAssets().openFd("model.tflite"); // stored uncompressed
 * ByteBuffer file = asset.createInputStream().getChannel().map(READ_ONLY, asset.getStartOffset(), asset.getLength());
 * Artifact artifact = Artifact.open(file);
 * artifact.manifest().name(); // "keyboard-lstm"
 * }</pre>
 */
public final class Artifact {
    static final String MANIFEST = "manifest.json";
    static final String TOKENIZER = "tokenizer.json";

    private static final int IDENTIFIER = 0x334C4654; // "TFL3" in little-endian order

    private final ByteBuffer file;
    private final AttachedFiles attached;
    private final Manifest manifest;
    private Tokenizer tokenizer;

    private Artifact(ByteBuffer file) {
        this.file = file;
        this.attached = new AttachedFiles(file);
        if (!attached.has(MANIFEST)) {
            throw new EdgeLmException(
                    "the file holds no edgelm manifest: it was cut short, or edgelm did not write it",
                    "a .tflite written by edgelm convert",
                    "edgelm convert MODEL --target android-arm64 -o FOLDER",
                    null);
        }
        this.manifest = Manifest.parse(attached.read(MANIFEST));
    }

    /**
     * Reads the manifest out of a file; the weights are not touched.
     *
     * @param tflite the whole file from position 0 to its capacity, mapped or read; direct where the runtime asks for it
     * @return the artifact, which keeps the buffer
     * @throws EdgeLmException it is damaged, or edgelm did not write it
     */
    public static Artifact open(ByteBuffer tflite) {
        ByteBuffer file = tflite.duplicate().order(ByteOrder.LITTLE_ENDIAN);
        file.clear();
        if (file.capacity() < 8 || file.getInt(4) != IDENTIFIER) {
            throw new EdgeLmException("the file is no .tflite model", "a .tflite written by edgelm convert");
        }
        return new Artifact(file);
    }

    /**
     * What the artifact says of itself.
     *
     * @return the manifest
     */
    public Manifest manifest() {
        return manifest;
    }

    /**
     * The tokenizer inside it, read when it is first asked for.
     *
     * @return the tokenizer
     * @throws EdgeLmException there is none, it is damaged, or it has a part this version does not know
     */
    public Tokenizer tokenizer() {
        if (tokenizer == null) {
            if (!attached.has(TOKENIZER)) {
                throw new EdgeLmException(
                        "the model " + manifest.name() + " holds no tokenizer",
                        "a .tflite with its tokenizer inside",
                        "edgelm convert MODEL --tokenizer tokenizer.json -o FOLDER",
                        null);
            }
            tokenizer = Tokenizer.parse(attached.read(TOKENIZER));
        }
        return tokenizer;
    }

    /**
     * The file for the runtime, which reads it from the front and does not see what follows the flatbuffer.
     *
     * @return a view of the whole file from position 0
     */
    public ByteBuffer model() {
        return file.duplicate();
    }

    /**
     * The size of the file.
     *
     * @return bytes
     */
    public long bytes() {
        return file.capacity();
    }

    /**
     * The checksum of the file, for reports. Reads all of it.
     *
     * @return SHA-256 in 64 hexadecimal digits
     */
    public String sha256() {
        return sha256(file.capacity());
    }

    /**
     * Checks that the weights are the ones the manifest was written for. Reads all of the file (0.1 to 1 second for each 100 MB):
     * worth it for files that came over a network or were picked by a user, before a runtime trusts them.
     *
     * @throws EdgeLmException the flatbuffer has another checksum
     */
    public void verify() {
        if (!sha256(attached.start()).equals(manifest.flatbufferSha256())) {
            throw new EdgeLmException(
                    "the weights of " + manifest.name() + " are damaged: their checksum is not the manifest's",
                    "",
                    "copy or convert the model again",
                    null);
        }
    }

    private String sha256(int end) {
        ByteBuffer part = file.duplicate();
        part.limit(end);
        try {
            MessageDigest digest = MessageDigest.getInstance("SHA-256");
            digest.update(part);
            StringBuilder text = new StringBuilder(64);
            for (byte value : digest.digest()) {
                text.append(Character.forDigit(value >> 4 & 15, 16)).append(Character.forDigit(value & 15, 16));
            }
            return text.toString();
        } catch (NoSuchAlgorithmException error) {
            throw new IllegalStateException("every Java platform has SHA-256", error);
        }
    }
}
