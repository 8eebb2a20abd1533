package dev.edgelm.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;

import com.sun.management.ThreadMXBean;
import java.lang.management.ManagementFactory;
import java.nio.FloatBuffer;
import java.util.Arrays;
import org.junit.Test;

public final class TransformerSessionTest {
    private final FakeTransformer model = new FakeTransformer();
    private final Session session = Session.open(FakeTransformer.manifest(), model);

    @Test
    public void stepsClimbTheLadderAndKeepEveryRow() {
        int[] tokens = {3, 1, 4, 1, 0, 2, 4, 3};
        for (int i = 0; i < tokens.length; i++) {
            expectLogits(session.step(tokens[i]), Arrays.copyOf(tokens, i + 1));
            assertEquals(i < 4 ? "decode_4" : "decode_16", session.signature());
        }
    }

    @Test
    public void prefillAndStepsGiveTheSame() {
        expectLogits(session.prefill(new int[] {3, 1, 4, 1, 0, 2}), 3, 1, 4, 1, 0, 2);
        assertEquals(2, model.runs);
        expectLogits(session.step(4), 3, 1, 4, 1, 0, 2, 4);
        session.reset();
        expectLogits(session.prefill(new int[] {9 % 5}), 4);
        assertEquals("decode_4", session.signature());
    }

    @Test
    public void snapshotsBranchAndComeBack() {
        Session.Snapshot start = session.snapshot();
        session.prefill(new int[] {3, 1, 4});
        Session.Snapshot three = session.snapshot();
        session.prefill(new int[] {1, 0, 2});
        Session.Snapshot six = session.snapshot();
        session.restore(three);
        session.step(2);
        session.restore(six);
        expectLogits(session.step(4), 3, 1, 4, 1, 0, 2, 4);
        session.restore(start);
        assertEquals(0, session.position());
        expectLogits(session.step(1), 1);
        session.restore(six);
        expectLogits(session.step(0), 3, 1, 4, 1, 0, 2, 0);
        session.reset();
        session.step(2);
        session.restore(three);
        expectLogits(session.step(2), 3, 1, 4, 2);
    }

    @Test
    public void aFullContextTakesNothing() {
        session.prefill(new int[14]);
        assertThrows(EdgeLmException.class, () -> session.prefill(new int[3]));
        assertEquals(14, session.position());
        session.step(0);
        session.step(0);
        EdgeLmException error = assertThrows(EdgeLmException.class, () -> session.step(0));
        assertEquals("the context is full: it holds 16 tokens, 16 are taken, 1 more were given", error.what());
    }

    @Test
    public void badIdsAreRefused() {
        assertThrows(EdgeLmException.class, () -> session.step(FakeTransformer.VOCABULARY));
        assertThrows(EdgeLmException.class, () -> session.prefill(new int[] {0, -1}));
        assertThrows(EdgeLmException.class, () -> session.prefill(new int[0]));
        assertEquals(0, session.position());
        Session other = Session.open(FakeTransformer.manifest(), new FakeTransformer());
        assertThrows(EdgeLmException.class, () -> session.restore(other.snapshot()));
    }

    @Test
    public void stepsAllocateNothing() {
        ThreadMXBean threads = (ThreadMXBean) ManagementFactory.getThreadMXBean();
        long thread = Thread.currentThread().getId();
        long least = Long.MAX_VALUE;
        for (int round = 0; round < 5; round++) { // the first rounds load classes
            long before = threads.getThreadAllocatedBytes(thread);
            for (int i = 0; i < 1000; i++) {
                if (i % 16 == 0) {
                    session.reset();
                }
                session.step(i % 5);
            }
            least = Math.min(least, threads.getThreadAllocatedBytes(thread) - before);
        }
        assertEquals(0, least);
    }

    private static void expectLogits(FloatBuffer logits, int... tokens) {
        float[] met = new float[FakeTransformer.VOCABULARY];
        logits.get(met);
        assertArrayEquals(FakeTransformer.expected(tokens), met, 1e-3f);
    }
}
