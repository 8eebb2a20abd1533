package dev.edgelm.core;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;

import java.nio.FloatBuffer;
import java.util.Arrays;
import java.util.Comparator;
import java.util.Random;
import org.junit.Test;

public final class SamplerTest {
    private static final float[] LOGITS = logs(0.2, 0.5, 0.3);

    @Test
    public void rankingIsAStableSort() {
        Random random = new Random(1);
        for (int round = 0; round < 200; round++) {
            double[] values = random.ints(1 + random.nextInt(30), -3, 4).asDoubleStream().toArray();
            Integer[] expected = new Integer[values.length];
            Arrays.setAll(expected, i -> i);
            Arrays.sort(expected, Comparator.comparingDouble(i -> -values[i]));
            Sampler sampler = new Sampler(values.length);
            int n = 1 + random.nextInt(values.length + 3);
            assertEquals(Math.min(n, values.length), sampler.rank(values, n));
            for (int place = 0; place < Math.min(n, values.length); place++) {
                assertEquals((int) expected[place], sampler.ranked(place));
            }
        }
    }

    @Test
    public void aUniformNumberStandsForAToken() {
        SamplingSettings all = new SamplingSettings(1, 0, 1, 1, 0);
        assertEquals(1, choose(all, 0.49));
        assertEquals(2, choose(all, 0.51));
        assertEquals(0, choose(all, 0.81));
        assertEquals(1, choose(new SamplingSettings(1, 0, 0.7, 1, 0), 0.6)); // 1 (0.625) and 2 (0.375)
        assertEquals(2, choose(new SamplingSettings(1, 2, 1, 1, 0), 0.99));
        assertEquals(1, choose(SamplingSettings.GREEDY, 0));
        assertEquals(2, choose(new SamplingSettings(0, 0, 1, 3, 0), 0, 1, 1)); // 1 is penalised, once
    }

    @Test
    public void nothingIsChosenFromNan() {
        FloatBuffer broken = FloatBuffer.wrap(new float[] {0, Float.NaN});
        Sampler sampler = new Sampler(2);
        Pcg64 random = new Pcg64(0);
        assertThrows(EdgeLmException.class, () -> sampler.sample(broken, SamplingSettings.GREEDY, random, new int[0], 0, 0));
    }

    @Test
    public void randomNumbersAreNumpys() {
        Pcg64 random = new Pcg64(7);
        assertEquals(0.625095466604667, random.nextDouble(), 0);
        assertEquals(0.8972138009695755, random.nextDouble(), 0);
        assertEquals(0.7756856902451935, random.nextDouble(), 0);
    }

    private static int choose(SamplingSettings settings, double uniform, int... recent) {
        Sampler sampler = new Sampler(LOGITS.length);
        sampler.load(FloatBuffer.wrap(LOGITS));
        return sampler.choose(settings, uniform, recent, 0, recent.length);
    }

    private static float[] logs(double... probabilities) {
        float[] logits = new float[probabilities.length];
        for (int i = 0; i < logits.length; i++) {
            logits[i] = (float) Math.log(probabilities[i]);
        }
        return logits;
    }
}
