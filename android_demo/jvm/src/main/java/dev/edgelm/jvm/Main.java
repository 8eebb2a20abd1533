package dev.edgelm.jvm;

import dev.edgelm.core.Artifact;
import dev.edgelm.core.Completer;
import dev.edgelm.core.Device;
import dev.edgelm.core.EdgeLmException;
import dev.edgelm.core.Measurement;
import dev.edgelm.core.Pcg64;
import dev.edgelm.core.Probes;
import dev.edgelm.core.ProfileReport;
import dev.edgelm.core.Profiler;
import dev.edgelm.core.SamplingSettings;
import dev.edgelm.core.Session;
import dev.edgelm.core.Suggester;
import dev.edgelm.core.Suggestion;
import dev.edgelm.core.TextSink;
import dev.edgelm.core.Tokenizer;
import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.nio.file.StandardOpenOption;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.Base64;
import java.util.Collections;
import java.util.HashMap;
import java.util.Map;

/**
 * The engine as a program: reads one command a line and answers with one line, so that a test needs a single JVM.
 *
 * <p>Fields are separated by tabs, texts are base64 of UTF-8. An answer begins with {@code ok} or {@code error}; an {@link
 * EdgeLmException} is an answer, anything else ends the program.
 */
public final class Main {
    /** A command: its fields to the fields of its answer. */
    private interface Command {
        String run(String[] fields) throws IOException;
    }

    /** A model that was opened. */
    private static final class Opened {
        final Artifact artifact;
        final Session session;
        final double loadMs;
        Suggester suggester;

        Opened(Artifact artifact, Session session, double loadMs) {
            this.artifact = artifact;
            this.session = session;
            this.loadMs = loadMs;
        }
    }

    private final Map<String, Command> commands = new HashMap<>();
    private final Map<String, Opened> models = new HashMap<>();
    private final Map<String, Tokenizer> tokenizers = new HashMap<>();

    private Main() {
        commands.put("open", fields -> open(fields[1], fields[2]));
        commands.put("inspect", fields -> inspect(fields[1]));
        commands.put("tokenizer", fields -> tokenizer(fields[1], fields[2]));
        commands.put("pieces", fields -> pieces(tokenizers.get(fields[1]), fields[2]));
        commands.put("encode", fields -> encode(tokenizers.get(fields[1]), text(fields[2])));
        commands.put("steps", fields -> steps(models.get(fields[1]).session, ids(fields[2]), fields[3]));
        commands.put("prefill", fields -> prefill(models.get(fields[1]).session, ids(fields[2]), fields[3]));
        commands.put("suggest", fields -> suggest(models.get(fields[1]), text(fields[2]), Integer.parseInt(fields[3])));
        commands.put("complete", fields -> complete(models.get(fields[1]), fields));
        commands.put("uniform", fields -> uniform(Long.parseLong(fields[1]), Integer.parseInt(fields[2])));
        commands.put("profile", fields -> profile(models.get(fields[1]), fields[2]));
        commands.put("allocated", fields -> allocated(models.get(fields[1]).session, Integer.parseInt(fields[2])));
    }

    /**
     * Runs the commands of the standard input.
     *
     * @param arguments none
     * @throws IOException the input ended badly, or a file cannot be written
     */
    public static void main(String[] arguments) throws IOException {
        Main main = new Main();
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        PrintStream output = new PrintStream(System.out, true, "UTF-8");
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            output.println(main.answer(line.split("\t", -1)));
        }
    }

    private String answer(String[] fields) throws IOException {
        try {
            return "ok\t" + commands.get(fields[0]).run(fields);
        } catch (EdgeLmException error) {
            return "error\t" + encoded(error.getMessage());
        }
    }

    private String open(String key, String path) throws IOException {
        Artifact artifact = Artifact.open(mapped(path));
        long began = System.nanoTime();
        Session session = Session.open(artifact.manifest(), new LiteRtRunner(new File(path)));
        models.put(key, new Opened(artifact, session, (System.nanoTime() - began) / 1e6));
        tokenizers.put(key, artifact.tokenizer());
        return artifact.manifest().name() + "\t" + session.vocabSize() + "\t" + session.maxPositions();
    }

    private String inspect(String path) throws IOException {
        Artifact artifact = Artifact.open(mapped(path));
        artifact.verify();
        return artifact.manifest().name() + "\t" + artifact.tokenizer().kind();
    }

    private String tokenizer(String key, String path) throws IOException {
        tokenizers.put(key, Tokenizer.parse(Files.readAllBytes(Paths.get(path))));
        return "";
    }

    /** Writes a line for each id: bytes, whether it begins a word, whether it is special. Answers with the special ids. */
    private static String pieces(Tokenizer tokenizer, String path) throws IOException {
        StringBuilder lines = new StringBuilder();
        for (int id = 0; id < tokenizer.vocabSize(); id++) {
            lines.append(Base64.getEncoder().encodeToString(tokenizer.pieceBytes(id))).append('\t');
            lines.append(tokenizer.isWordStart(id) ? 1 : 0).append('\t').append(tokenizer.isSpecial(id) ? 1 : 0).append('\t');
            lines.append(encoded(tokenizer.piece(id))).append('\n');
        }
        Files.write(Paths.get(path), lines.toString().getBytes(StandardCharsets.UTF_8));
        return String.format(
                "%s\t%d\t%d\t%d\t%d",
                tokenizer.kind(), tokenizer.vocabSize(), tokenizer.startId(), tokenizer.boundaryId(), tokenizer.unknownId());
    }

    private static String encode(Tokenizer tokenizer, String text) {
        StringBuilder ids = new StringBuilder();
        for (int id : tokenizer.encode(text)) {
            ids.append(ids.length() > 0 ? "," : "").append(id);
        }
        return ids.toString();
    }

    private static String steps(Session session, int[] ids, String path) throws IOException {
        ByteBuffer bytes = ByteBuffer.allocate(4 * session.vocabSize()).order(ByteOrder.LITTLE_ENDIAN);
        session.reset();
        StringBuilder signatures = new StringBuilder();
        try (OutputStream file = Files.newOutputStream(Paths.get(path))) {
            for (int id : ids) {
                bytes.asFloatBuffer().put(session.step(id));
                file.write(bytes.array());
                signatures.append(session.signature()).append(' ');
            }
        }
        return signatures.toString().trim();
    }

    private static String prefill(Session session, int[] ids, String path) throws IOException {
        session.reset();
        FloatBuffer logits = session.prefill(ids);
        ByteBuffer bytes = ByteBuffer.allocate(4 * session.vocabSize()).order(ByteOrder.LITTLE_ENDIAN);
        bytes.asFloatBuffer().put(logits);
        Files.write(Paths.get(path), bytes.array());
        return session.signature();
    }

    private static String suggest(Opened model, String text, int n) {
        model.suggester = model.suggester == null ? new Suggester(model.session, model.artifact.tokenizer()) : model.suggester;
        model.suggester.reset();
        StringBuilder answer = new StringBuilder();
        for (Suggestion word : model.suggester.suggest(text, n)) {
            answer.append(encoded(word.text())).append(' ').append(word.probability()).append('\t');
        }
        return answer.toString().trim();
    }

    private static String complete(Opened model, String[] fields) {
        SamplingSettings settings =
                new SamplingSettings(
                        Double.parseDouble(fields[4]),
                        Integer.parseInt(fields[5]),
                        Double.parseDouble(fields[6]),
                        Double.parseDouble(fields[7]),
                        Long.parseLong(fields[8]));
        StringBuilder parts = new StringBuilder();
        TextSink sink = part -> parts.append(encoded(part)).append(' ') != null;
        Completer completer = new Completer(model.session, model.artifact.tokenizer());
        int written = completer.complete(text(fields[2]), Integer.parseInt(fields[3]), settings, sink);
        return written + "\t" + parts.toString().trim();
    }

    private static String uniform(long seed, int count) {
        Pcg64 random = new Pcg64(seed);
        StringBuilder numbers = new StringBuilder();
        for (int i = 0; i < count; i++) {
            numbers.append(i > 0 ? "," : "").append(Double.toHexString(random.nextDouble()));
        }
        return numbers.toString();
    }

    private static String profile(Opened model, String path) throws IOException {
        String abi = System.getProperty("os.arch").equals("amd64") ? "x86_64" : "arm64-v8a";
        int cores = Runtime.getRuntime().availableProcessors();
        String startedAt = Instant.now().truncatedTo(ChronoUnit.SECONDS).toString();
        Measurement measured = new Profiler(model.session, Probes.JVM).run(Profiler.Plan.DEFAULT, (done, total) -> true);
        ProfileReport report =
                new ProfileReport(measured)
                        .madeBy("host")
                        .model(model.artifact)
                        .device(new Device("", "a \"JVM\"", "", abi, 0, cores, 0, Collections.emptyList()))
                        .runtime("ai-edge-litert", "2.1.0", 1)
                        .startedAt(startedAt)
                        .loadMs(model.loadMs);
        Files.write(Paths.get(path), report.toJson().getBytes(StandardCharsets.UTF_8));
        return "";
    }

    /** Bytes this thread allocates in some steps, after as many to warm up. */
    private static String allocated(Session session, int steps) {
        com.sun.management.ThreadMXBean threads =
                (com.sun.management.ThreadMXBean) java.lang.management.ManagementFactory.getThreadMXBean();
        long before = 0;
        for (int round = 0; round < 2; round++) {
            session.reset();
            before = threads.getThreadAllocatedBytes(Thread.currentThread().getId());
            for (int i = 0; i < steps; i++) {
                session.step(i % session.vocabSize());
            }
        }
        return String.valueOf(threads.getThreadAllocatedBytes(Thread.currentThread().getId()) - before);
    }

    private static ByteBuffer mapped(String path) throws IOException {
        try (FileChannel channel = FileChannel.open(Paths.get(path), StandardOpenOption.READ)) {
            return channel.map(FileChannel.MapMode.READ_ONLY, 0, channel.size());
        }
    }

    private static int[] ids(String field) {
        String[] written = field.split(",");
        int[] ids = new int[written.length];
        for (int i = 0; i < ids.length; i++) {
            ids[i] = Integer.parseInt(written[i]);
        }
        return ids;
    }

    private static String text(String field) {
        return new String(Base64.getDecoder().decode(field), StandardCharsets.UTF_8);
    }

    private static String encoded(String text) {
        return Base64.getEncoder().encodeToString(text.getBytes(StandardCharsets.UTF_8));
    }
}
