package dev.edgelm.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.util.Collections;
import org.junit.Test;

public final class ProfilerTest {
    /** A clock that goes on by 1 ms with every look at it. */
    private static final class SlowClock implements Probes {
        private long now;
        private double usedMb = 20;

        @Override
        public long nanoTime() {
            now += 1_000_000;
            return now;
        }

        @Override
        public double usedMemoryMb() {
            usedMb += 0.5;
            return usedMb;
        }

        @Override
        public int thermalStatus() {
            return 1;
        }
    }

    private final Session session = Session.open(FakeTransformer.manifest(), new FakeTransformer());

    @Test
    public void everyTimedStepIsReportedUnderItsSignature() {
        Measurement measured = new Profiler(session, new SlowClock()).run(new Profiler.Plan(3, 5, 2, 0), (done, total) -> true);
        assertArrayEquals(new double[] {1, 1, 1, 1, 1}, measured.signatureMs().get("decode_16"), 0);
        assertEquals(Collections.singleton("decode_16"), measured.signatureMs().keySet());
        assertEquals(1, measured.percentile(50), 0);
        assertEquals(1000, measured.tokensPerSecond(), 0);
        assertEquals(3, measured.prefillTokens());
        assertEquals(3, measured.prefillMs().length);
        assertTrue(measured.memoryPeakMb() > measured.memoryBeforeMb());
    }

    @Test
    public void aFullContextStartsAgainUntimed() {
        Measurement measured = new Profiler(session, new SlowClock()).run(new Profiler.Plan(8, 40, 0, 0), (done, total) -> true);
        assertEquals(40, measured.signatureMs().get("decode_16").length);
    }

    @Test
    public void aStoppedRunGivesWhatItHas() {
        Measurement measured = new Profiler(session, new SlowClock()).run(new Profiler.Plan(1, 9, 1, 0), (done, total) -> done < 4);
        assertEquals(2, measured.signatureMs().get("decode_4").length);
        assertEquals(1, measured.signatureMs().get("decode_16").length);
        assertEquals(0, new Profiler(session, new SlowClock()).run(new Profiler.Plan(1, 9, 1, 0), (d, t) -> false).percentile(90), 0);
    }

    @Test
    public void theReportIsOneLineOfJson() {
        Measurement measured = new Profiler(session, new SlowClock()).run(new Profiler.Plan(1, 2, 0, 0), (done, total) -> true);
        String json =
                new ProfileReport(measured)
                        .toolVersion("0.1.0")
                        .startedAt("2026-11-22T10:00:00Z")
                        .model("a \"quoted\"\nname", "00", 12)
                        .device(new Device("G", "P", "", "arm64-v8a", 34, 8, 7800, Collections.singletonList("neon")))
                        .runtime("litert-android", "2.1.0", 1)
                        .loadMs(12.34567)
                        .toJson();
        assertTrue(json, json.startsWith("{\"schema\": \"edgelm-profile/1\", \"made_by\": \"app\", \"tool_version\": \"0.1.0\", "));
        assertTrue(json, json.contains("\"name\": \"a \\\"quoted\\\"\\u000aname\", \"sha256\": \"00\", \"bytes\": 12}"));
        assertTrue(json, json.contains("\"load_ms\": 12.3457, \"first_token_ms\": 1.0, \"decode\": "));
        assertTrue(json, json.contains("{\"signature_ms\": {\"decode_4\": [1.0, 1.0]}, \"warmup\": 0}"));
        assertTrue(json, json.contains("\"prefill\": null"));
    }
}
