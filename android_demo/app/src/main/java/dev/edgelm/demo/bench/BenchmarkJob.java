package dev.edgelm.demo.bench;

import android.content.Context;
import dev.edgelm.core.EdgeLmException;
import dev.edgelm.core.Measurement;
import dev.edgelm.core.ProfileReport;
import dev.edgelm.core.Profiler;
import dev.edgelm.demo.DemoApplication;
import dev.edgelm.demo.R;
import dev.edgelm.demo.engine.Engine;
import dev.edgelm.demo.engine.EngineHost;
import dev.edgelm.demo.engine.Job;
import dev.edgelm.demo.engine.ModelFile;
import dev.edgelm.demo.engine.ModelStore;
import dev.edgelm.demo.litert.LiteRtRunner;
import java.io.File;
import java.io.IOException;
import java.time.Instant;
import java.time.temporal.ChronoUnit;

/** One run of the benchmark, which goes on while its screen is rotated. Everything but {@link #run} is for the main thread. */
public final class BenchmarkJob extends Job<BenchmarkJob>
        implements EngineHost.ExclusiveTask<BenchmarkJob.Outcome>, EngineHost.Listener<BenchmarkJob.Outcome> {
    private static final int SHOWN = 20; // steps of the progress bar

    private final Context context;
    private final BenchmarkRequest request;
    private int done;
    private int total;
    private Outcome outcome;

    /**
     * A job that has not started.
     *
     * @param context the application
     * @param request what to measure
     */
    public BenchmarkJob(Context context, BenchmarkRequest request) {
        this.context = context;
        this.request = request;
    }

    /** What a run gave. */
    public static final class Outcome {
        /** The figures. */
        public final Measurement measurement;
        /** Opening the model, ms. */
        public final double loadMs;
        /** The report as {@code edgelm profile --import} reads it. */
        public final String json;
        /** Where it was written; null when no report was asked for. */
        public final File file;

        Outcome(Measurement measurement, double loadMs, String json, File file) {
            this.measurement = measurement;
            this.loadMs = loadMs;
            this.json = json;
            this.file = file;
        }

        /**
         * The time of each token.
         *
         * @return ms, in order, whatever signature it took
         */
        public double[] tokenMs() {
            int count = 0;
            for (double[] times : measurement.signatureMs().values()) {
                count += times.length;
            }
            double[] all = new double[count];
            int at = 0;
            for (double[] times : measurement.signatureMs().values()) {
                System.arraycopy(times, 0, all, at, times.length);
                at += times.length;
            }
            return all;
        }

        /**
         * The worst thermal status of the run.
         *
         * @return 0 (none) to 6 (shutdown)
         */
        public int hottest() {
            int worst = 0;
            for (Measurement.Thermal look : measurement.thermal()) {
                worst = Math.max(worst, look.status());
            }
            return worst;
        }
    }

    @Override
    public void start() {
        DemoApplication.of(context).engine().submitExclusive(this, this);
    }

    @Override
    protected BenchmarkJob self() {
        return this;
    }

    /**
     * How far it is.
     *
     * @return tokens done
     */
    public int done() {
        return done;
    }

    /**
     * How much there is.
     *
     * @return tokens in all; 0 while the model is loading
     */
    public int total() {
        return total;
    }

    /**
     * What it gave.
     *
     * @return null before its end, and when it failed
     */
    public Outcome outcome() {
        return outcome;
    }

    @Override
    public boolean ended() {
        return outcome != null || !error().isEmpty();
    }

    @Override
    public Outcome run() throws IOException {
        try {
            return measured();
        } catch (EdgeLmException | IOException failed) {
            tell(failed.getMessage());
            throw failed;
        } catch (OutOfMemoryError full) {
            tell("the phone has too little free memory for this model");
            throw full;
        }
    }

    /** Tells who waits for a report why there is none. */
    private void tell(String words) throws IOException {
        if (!request.report.isEmpty()) {
            reports().writeError(request.report, words);
        }
    }

    @Override
    public void done(Outcome result) {
        outcome = result;
        changed();
    }

    private Outcome measured() throws IOException {
        String startedAt = Instant.now().truncatedTo(ChronoUnit.SECONDS).toString();
        ModelStore models = DemoApplication.of(context).models();
        ModelFile model = request.model.isEmpty() ? models.chosen() : models.find(request.model);
        PhoneProbes probes = new PhoneProbes(context);
        double before = probes.usedMemoryMb();
        try (Engine engine = Engine.open(models.map(model), request.threads)) {
            Profiler.Plan plan = new Profiler.Plan(request.prompt, request.runs, request.warmup, 0);
            Measurement measurement = new Profiler(engine.session(), probes).run(plan, this::on);
            if (isStopped()) {
                throw new EdgeLmException("the benchmark was stopped before its end", "", "run it again and leave its screen open", null);
            }
            String json = report(measurement, engine).startedAt(startedAt).memoryBeforeMb(before).toJson();
            File file = request.report.isEmpty() ? null : reports().writeReport(request.report, json);
            return new Outcome(measurement, engine.loadMs(), json, file);
        }
    }

    private ProfileReport report(Measurement measurement, Engine engine) {
        return new ProfileReport(measurement)
                .madeBy("app")
                .toolVersion(context.getString(R.string.version))
                .model(engine.artifact())
                .device(PhoneFacts.device(context))
                .runtime("litert-android", LiteRtRunner.VERSION, request.threads)
                .loadMs(engine.loadMs());
    }

    /** Hears of each token on the worker thread; tells the screen rarely, as drawing disturbs what is measured. */
    private boolean on(int now, int all) {
        if (now == all || now % Math.max(1, all / SHOWN) == 0) {
            DemoApplication.of(context).engine().post(() -> show(now, all));
        }
        return !isStopped();
    }

    private void show(int now, int all) {
        done = now;
        total = all;
        changed();
    }

    private ReportFolder reports() {
        return new ReportFolder(context.getExternalFilesDir(ReportFolder.NAME));
    }
}
