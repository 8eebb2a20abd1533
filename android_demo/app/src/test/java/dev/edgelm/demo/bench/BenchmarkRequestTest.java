package dev.edgelm.demo.bench;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;

import dev.edgelm.core.EdgeLmException;
import java.util.HashMap;
import java.util.Map;
import org.junit.Test;

public final class BenchmarkRequestTest {
    @Test
    public void extrasOfAmStart() {
        Map<String, Object> extras = extras("model", "keyboard-lstm", "report", "run_1-a");
        extras.put("runs", 64);
        extras.put("threads", 2);
        BenchmarkRequest request = BenchmarkRequest.of(extras);
        assertEquals("keyboard-lstm", request.model);
        assertEquals(64, request.runs);
        assertEquals(2, request.threads);
        assertEquals(8, request.warmup);
        assertEquals(32, request.prompt);
        assertEquals("run_1-a", request.report);
    }

    @Test
    public void reportIdsThatCouldLeaveTheFolder() {
        for (String id : new String[] {"", "../x", "a/b", "a.json", ".", "a b", "é", new String(new char[65]).replace('\0', 'a')}) {
            assertThrows(id, EdgeLmException.class, () -> BenchmarkRequest.of(extras("report", id)));
        }
    }

    @Test
    public void numbersOutOfRange() {
        Object[][] outOfRange = {{"runs", 0}, {"runs", 1_000_001}, {"prompt", 0}, {"warmup", -1}, {"threads", 0}, {"threads", 65}};
        for (Object[] wrong : outOfRange) {
            Map<String, Object> extras = extras("report", "a");
            extras.put((String) wrong[0], wrong[1]);
            EdgeLmException error = assertThrows(EdgeLmException.class, () -> BenchmarkRequest.of(extras));
            assertEquals(wrong[0] + " = " + wrong[1], error.what());
        }
    }

    @Test
    public void extrasOfTheWrongType() {
        EdgeLmException number = assertThrows(EdgeLmException.class, () -> BenchmarkRequest.of(extras("report", "a", "runs", "64")));
        assertEquals("--ei runs VALUE", number.fix());
        EdgeLmException text = assertThrows(EdgeLmException.class, () -> BenchmarkRequest.of(extras("report", 7)));
        assertEquals("--es report VALUE", text.fix());
    }

    private static Map<String, Object> extras(Object... pairs) {
        Map<String, Object> extras = new HashMap<>();
        for (int i = 0; i < pairs.length; i += 2) {
            extras.put((String) pairs[i], pairs[i + 1]);
        }
        return extras;
    }
}
