package dev.edgelm.core;

/**
 * numpy's default generator, bit for bit: {@code new Pcg64(7).nextDouble()} is {@code numpy.random.default_rng(7).random()}.
 *
 * <p>PCG XSL-RR 128/64 (O'Neill 2014), seeded through numpy's {@code SeedSequence}. Numbers of 128 bits are two longs.
 */
public final class Pcg64 {
    private static final long MULTIPLIER_HIGH = 0x2360ED051FC65DA4L;
    private static final long MULTIPLIER_LOW = 0x4385DF649FCCF645L;
    private static final double UNIT = 1.0 / (1L << 53);

    private long high;
    private long low;
    private final long incrementHigh;
    private final long incrementLow;

    /**
     * A generator.
     *
     * @param seed 0 or more; equal seeds give equal numbers
     */
    public Pcg64(long seed) {
        long[] words = SeedSequence.words(seed);
        incrementHigh = words[2] << 1 | words[3] >>> 63;
        incrementLow = words[3] << 1 | 1;
        step();
        add(words[0], words[1]);
        step();
    }

    /**
     * The next number.
     *
     * @return uniform in [0, 1), a multiple of 2^-53
     */
    public double nextDouble() {
        return (nextLong() >>> 11) * UNIT;
    }

    /**
     * The next 64 bits.
     *
     * @return any long
     */
    public long nextLong() {
        step();
        return Long.rotateRight(high ^ low, (int) (high >>> 58));
    }

    private void step() {
        long productHigh = multiplyHigh(low, MULTIPLIER_LOW) + high * MULTIPLIER_LOW + low * MULTIPLIER_HIGH;
        low *= MULTIPLIER_LOW;
        high = productHigh;
        add(incrementHigh, incrementLow);
    }

    private void add(long moreHigh, long moreLow) {
        low += moreLow;
        high += moreHigh + (Long.compareUnsigned(low, moreLow) < 0 ? 1 : 0);
    }

    /** The upper half of the product of two unsigned longs. */
    private static long multiplyHigh(long a, long b) {
        long aLow = a & 0xFFFFFFFFL;
        long aHigh = a >>> 32;
        long bLow = b & 0xFFFFFFFFL;
        long bHigh = b >>> 32;
        long middle = aHigh * bLow + (aLow * bLow >>> 32);
        long other = aLow * bHigh + (middle & 0xFFFFFFFFL);
        return aHigh * bHigh + (middle >>> 32) + (other >>> 32);
    }

    /** numpy's hash from a seed to the state of a generator (O'Neill's {@code seed_seq_fe128}). */
    private static final class SeedSequence {
        private static final int POOL = 4;
        private static final int INITIAL_A = 0x43B0D7E5;
        private static final int MULTIPLIER_A = 0x931E8875;
        private static final int INITIAL_B = 0x8B51F9DD;
        private static final int MULTIPLIER_B = 0x58F38DED;
        private static final int MIX_LEFT = 0xCA01F9DD;
        private static final int MIX_RIGHT = 0x4973F715;

        private final int[] pool = new int[POOL];
        private int constant = INITIAL_A;

        /** Four words of 64 bits for a seed. */
        static long[] words(long seed) {
            SeedSequence sequence = new SeedSequence();
            sequence.fill(seed);
            return sequence.generate();
        }

        private void fill(long seed) {
            pool[0] = hash((int) seed);
            pool[1] = hash((int) (seed >>> 32));
            pool[2] = hash(0);
            pool[3] = hash(0);
            for (int source = 0; source < POOL; source++) {
                for (int target = 0; target < POOL; target++) {
                    if (source != target) {
                        pool[target] = mix(pool[target], hash(pool[source]));
                    }
                }
            }
        }

        private long[] generate() {
            long[] words = new long[4];
            int running = INITIAL_B;
            for (int i = 0; i < 2 * words.length; i++) {
                int value = pool[i % POOL] ^ running;
                running *= MULTIPLIER_B;
                value *= running;
                value ^= value >>> 16;
                words[i / 2] |= (value & 0xFFFFFFFFL) << 32 * (i % 2);
            }
            return words;
        }

        private int hash(int value) {
            int mixed = value ^ constant;
            constant *= MULTIPLIER_A;
            mixed *= constant;
            return mixed ^ mixed >>> 16;
        }

        private static int mix(int left, int right) {
            int result = MIX_LEFT * left - MIX_RIGHT * right;
            return result ^ result >>> 16;
        }
    }
}
