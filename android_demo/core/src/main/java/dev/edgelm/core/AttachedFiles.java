package dev.edgelm.core;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import java.util.zip.CRC32;
import java.util.zip.DataFormatException;
import java.util.zip.Inflater;

/**
 * The files behind the flatbuffer of a {@code .tflite}: a ZIP archive at its end, TFLite's convention for associated files.
 *
 * <p>Reads stored and deflated entries of a mapped file without unpacking the rest; nothing of the archive is trusted. Format:
 * PKWARE's APPNOTE.TXT 6.3, without ZIP64, encryption and several disks, none of which edgelm writes.
 */
final class AttachedFiles {
    /** Bytes of an unpacked file: far above any tokenizer, far below what a ZIP bomb wants. */
    static final int LARGEST = 64 << 20;

    private static final int END_MARK = 0x06054b50;
    private static final int END_BYTES = 22;
    private static final int ENTRY_MARK = 0x02014b50;
    private static final int ENTRY_BYTES = 46;
    private static final int LOCAL_MARK = 0x04034b50;
    private static final int LOCAL_BYTES = 30;
    private static final int LONGEST_COMMENT = 0xFFFF;
    private static final int STORED = 0;
    private static final int DEFLATED = 8;

    private final ByteBuffer file;
    private final Map<String, Integer> entries = new HashMap<>(); // name -> place of its directory entry
    private int base; // what the archive's offsets count from
    private int start;

    /**
     * Reads the directory.
     *
     * @param file the whole {@code .tflite}
     * @throws EdgeLmException the archive is damaged
     */
    AttachedFiles(ByteBuffer file) {
        this.file = file.duplicate().order(ByteOrder.LITTLE_ENDIAN);
        this.start = file.capacity();
        int end = findEnd();
        if (end >= 0) {
            readDirectory(end);
        }
    }

    /** Where the archive begins, which is the size of the flatbuffer; the size of the file when there is none. */
    int start() {
        return start;
    }

    boolean has(String name) {
        return entries.containsKey(name);
    }

    /**
     * Unpacks a file.
     *
     * @param name one that {@link #has}
     * @return its content
     * @throws EdgeLmException it is damaged, or larger than {@link #LARGEST}
     */
    byte[] read(String name) {
        int entry = entries.get(name);
        int method = file.getShort(entry + 10);
        long packed = unsigned(entry + 20);
        long unpacked = unsigned(entry + 24);
        if (unpacked > LARGEST) {
            throw damaged(name + " unpacks to " + unpacked + " bytes", "up to " + (LARGEST >> 20) + " MiB");
        }
        long local = base + unsigned(entry + 42);
        check(local + LOCAL_BYTES <= file.capacity() && file.getInt((int) local) == LOCAL_MARK, name);
        long data = local + LOCAL_BYTES + shortAt((int) local + 26) + shortAt((int) local + 28);
        check(data + packed <= file.capacity(), name);
        ByteBuffer content = file.duplicate();
        content.limit((int) (data + packed)).position((int) data);
        byte[] bytes = new byte[(int) unpacked];
        check(method == STORED ? packed == unpacked : method == DEFLATED, name);
        if (method == STORED) {
            content.get(bytes);
        } else {
            inflate(content, bytes, name);
        }
        CRC32 sum = new CRC32();
        sum.update(bytes, 0, bytes.length);
        check(sum.getValue() == unsigned(entry + 16), name);
        return bytes;
    }

    private int findEnd() {
        int last = file.capacity() - END_BYTES;
        for (int at = last; at >= Math.max(0, last - LONGEST_COMMENT); at--) {
            if (file.getInt(at) == END_MARK && at + END_BYTES + shortAt(at + 20) == file.capacity()) {
                return at;
            }
        }
        return -1;
    }

    private void readDirectory(int end) {
        int count = shortAt(end + 10);
        long size = unsigned(end + 12);
        long offset = unsigned(end + 16);
        long from = end - size;
        check(from - offset >= 0, "the directory");
        base = (int) (from - offset);
        start = (int) from;
        int at = (int) from;
        for (int i = 0; i < count; i++) {
            check(at + ENTRY_BYTES <= end && file.getInt(at) == ENTRY_MARK, "the directory");
            int length = shortAt(at + 28);
            check(at + ENTRY_BYTES + length <= end, "the directory");
            byte[] name = new byte[length];
            ByteBuffer view = file.duplicate();
            view.position(at + ENTRY_BYTES);
            view.get(name);
            entries.put(new String(name, StandardCharsets.UTF_8), at);
            start = (int) Math.min(start, base + unsigned(at + 42));
            at += ENTRY_BYTES + length + shortAt(at + 30) + shortAt(at + 32);
        }
    }

    private static void inflate(ByteBuffer packed, byte[] target, String name) {
        Inflater inflater = new Inflater(true);
        byte[] chunk = new byte[8192];
        int done = 0;
        try {
            while (!inflater.finished()) {
                if (inflater.needsInput()) {
                    int more = Math.min(chunk.length, packed.remaining());
                    check(more > 0, name);
                    packed.get(chunk, 0, more);
                    inflater.setInput(chunk, 0, more);
                }
                int got = inflater.inflate(target, done, target.length - done);
                done += got;
                check(got > 0 || inflater.finished() || inflater.needsInput(), name);
            }
        } catch (DataFormatException error) {
            throw new EdgeLmException(name + " inside the .tflite is damaged", "", "copy or convert the model again", error);
        } finally {
            inflater.end();
        }
        check(done == target.length, name);
    }

    private int shortAt(int at) {
        return file.getShort(at) & 0xFFFF;
    }

    private long unsigned(int at) {
        return file.getInt(at) & 0xFFFFFFFFL;
    }

    private static void check(boolean good, String name) {
        if (!good) {
            throw damaged(name + " inside the .tflite is damaged", "");
        }
    }

    private static EdgeLmException damaged(String what, String allowed) {
        return new EdgeLmException(what, allowed, "copy or convert the model again", null);
    }
}
