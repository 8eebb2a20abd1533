package dev.edgelm.core;

/**
 * What a {@link Profiler} asks of its surroundings; an app answers with {@code Debug} and {@code PowerManager}.
 */
public interface Probes {
    /** A JVM without a thermal sensor: the heap in use. */
    Probes JVM =
            new Probes() {
                @Override
                public long nanoTime() {
                    return System.nanoTime();
                }

                @Override
                public double usedMemoryMb() {
                    Runtime runtime = Runtime.getRuntime();
                    return (runtime.totalMemory() - runtime.freeMemory()) / 1e6;
                }

                @Override
                public int thermalStatus() {
                    return 0;
                }
            };

    /**
     * A clock that never goes back.
     *
     * @return nanoseconds from any starting point
     */
    long nanoTime();

    /**
     * Memory this process uses now; on Android the proportional set size.
     *
     * @return MB of 10^6 bytes; 0 when unknown
     */
    double usedMemoryMb();

    /**
     * How hot the device is, as Android's {@code PowerManager.getCurrentThermalStatus} counts.
     *
     * @return 0 (none) to 6 (shutdown)
     */
    int thermalStatus();
}
