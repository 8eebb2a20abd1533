package dev.edgelm.demo;

import android.content.Intent;
import android.net.Uri;
import android.os.Bundle;
import android.view.View;
import android.view.WindowManager;
import android.widget.ProgressBar;
import dev.edgelm.core.EdgeLmException;
import dev.edgelm.core.Measurement;
import dev.edgelm.demo.bench.BenchmarkJob;
import dev.edgelm.demo.bench.BenchmarkRequest;
import dev.edgelm.demo.bench.ReportFolder;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;

/**
 * Measures a model as an app experiences it.
 *
 * <p>Also started from a computer, see {@link BenchmarkRequest}; then it writes its report where {@code edgelm profile --app} fetches it.
 */
public final class BenchmarkActivity extends JobActivity<BenchmarkJob> {
    private static final int SAVE = 1;
    private static final int SHARE = 2;
    private static final int LARGEST_SHARED = 200_000; // characters: what passes between apps has to stay below 1 MB

    @Override
    protected void onCreate(Bundle state) {
        super.onCreate(state);
        show(R.layout.activity_benchmark);
        if (state == null) {
            fill(R.id.runs, 128);
            fill(R.id.warmup, 8);
            fill(R.id.threads, 1);
        }
        onClick(R.id.run, this::runFields);
        onClick(R.id.stop, () -> job.stop());
        onClick(R.id.share, this::share);
        onClick(R.id.save, this::save);
        resumeJob();
        if (job == null && state == null && getIntent().hasExtra(BenchmarkRequest.REPORT)) {
            obey(getIntent());
        }
    }

    @Override
    protected void onNewIntent(Intent intent) {
        super.onNewIntent(intent);
        if (intent.hasExtra(BenchmarkRequest.REPORT)) {
            obey(intent);
        }
    }

    @Override
    protected void onResume() {
        super.onResume();
        say(R.id.model_status, chosenModel());
    }

    @Override
    public void changed(BenchmarkJob now) {
        showRunning(!now.ended());
        ProgressBar bar = (ProgressBar) findViewById(R.id.progress);
        bar.setIndeterminate(now.total() == 0);
        bar.setMax(now.total());
        bar.setProgress(now.done());
        if (now.outcome() != null) {
            show(now.outcome());
        } else if (now.ended()) {
            say(R.id.status, now.error());
        } else if (now.total() == 0) {
            say(R.id.status, getString(R.string.loading));
        } else {
            say(R.id.status, getString(R.string.benchmark_progress, now.done(), now.total()));
        }
    }

    @Override
    protected void onActivityResult(int request, int result, Intent data) {
        if (request != SAVE || result != RESULT_OK || data == null || job == null || job.outcome() == null) {
            return;
        }
        Uri place = data.getData();
        try (OutputStream stream = getContentResolver().openOutputStream(place)) {
            stream.write(job.outcome().json.getBytes(StandardCharsets.UTF_8));
            say(R.id.status, getString(R.string.saved));
        } catch (IOException error) {
            say(R.id.status, error.getMessage());
        }
    }

    /** Runs what the fields say. */
    private void runFields() {
        try {
            int runs = count(R.id.runs, R.string.runs_label, 1, BenchmarkRequest.MOST_TOKENS);
            int warmup = count(R.id.warmup, R.string.warmup_label, 0, BenchmarkRequest.MOST_TOKENS);
            int threads = count(R.id.threads, R.string.threads_label, 1, BenchmarkRequest.MOST_THREADS);
            start(new BenchmarkRequest("", runs, BenchmarkRequest.PROMPT, warmup, threads, ""));
        } catch (EdgeLmException error) {
            say(R.id.status, error.getMessage());
        }
    }

    /** Runs what an intent says; who sent it learns from the report's folder what became of it. */
    private void obey(Intent intent) {
        try {
            if (job != null && !job.ended()) {
                throw new EdgeLmException("a benchmark is running already");
            }
            start(BenchmarkRequest.of(extras(intent)));
        } catch (EdgeLmException refused) {
            say(R.id.status, refused.getMessage());
            tell(intent.getStringExtra(BenchmarkRequest.REPORT), refused.getMessage());
        }
    }

    private void tell(String report, String words) {
        try {
            new ReportFolder(getExternalFilesDir(ReportFolder.NAME)).writeError(report, words);
        } catch (EdgeLmException | IOException unusable) {
            say(R.id.status, words + "\n" + unusable.getMessage());
        }
    }

    private static Map<String, Object> extras(Intent intent) {
        Map<String, Object> values = new HashMap<>();
        for (String name : intent.getExtras().keySet()) {
            values.put(name, intent.getExtras().get(name));
        }
        return values;
    }

    private void start(BenchmarkRequest request) {
        findViewById(R.id.chart).setVisibility(View.GONE);
        say(R.id.figures, "");
        start(new BenchmarkJob(getApplicationContext(), request));
    }

    private void show(BenchmarkJob.Outcome outcome) {
        Measurement measured = outcome.measurement;
        ((ChartView) findViewById(R.id.chart)).show(outcome.tokenMs(), measured.percentile(50));
        String[] thermal = getResources().getStringArray(R.array.thermal);
        String figures =
                getString(
                        R.string.figures,
                        Numbers.shortly(measured.percentile(50)),
                        Numbers.shortly(measured.percentile(90)),
                        Numbers.shortly(measured.percentile(99)),
                        Numbers.shortly(measured.tokensPerSecond()),
                        Numbers.shortly(outcome.loadMs),
                        Numbers.shortly(measured.firstTokenMs()),
                        Numbers.shortly(measured.memoryBeforeMb()),
                        Numbers.shortly(measured.memoryPeakMb()),
                        thermal[Math.min(outcome.hottest(), thermal.length - 1)]);
        say(R.id.figures, figures);
        boolean written = outcome.file != null;
        say(R.id.status, written ? getString(R.string.report_written, outcome.file.getPath()) : getString(R.string.benchmark_done));
    }

    private void share() {
        if (job.outcome().json.length() > LARGEST_SHARED) {
            say(R.id.status, getString(R.string.too_large_to_share));
            return;
        }
        Intent send = new Intent(Intent.ACTION_SEND).setType("application/json");
        send.putExtra(Intent.EXTRA_SUBJECT, getString(R.string.share_title)).putExtra(Intent.EXTRA_TEXT, job.outcome().json);
        open(Intent.createChooser(send, getString(R.string.share)), SHARE, R.id.status);
    }

    private void save() {
        Intent create = new Intent(Intent.ACTION_CREATE_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE);
        open(create.setType("application/json").putExtra(Intent.EXTRA_TITLE, "edgelm-profile.json"), SAVE, R.id.status);
    }

    private void showRunning(boolean running) {
        boolean ready = !running && job.outcome() != null;
        findViewById(R.id.run).setEnabled(!running);
        findViewById(R.id.stop).setEnabled(running);
        findViewById(R.id.share).setEnabled(ready);
        findViewById(R.id.save).setEnabled(ready);
        findViewById(R.id.progress).setVisibility(running ? View.VISIBLE : View.INVISIBLE);
        if (running) {
            getWindow().addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON);
        } else {
            getWindow().clearFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON);
        }
    }
}
