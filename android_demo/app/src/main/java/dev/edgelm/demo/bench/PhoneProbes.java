package dev.edgelm.demo.bench;

import android.content.Context;
import android.os.Debug;
import android.os.PowerManager;
import dev.edgelm.core.Probes;
import dev.edgelm.demo.platform.Platform;

/** What a profiler asks of a phone. */
final class PhoneProbes implements Probes {
    private final PowerManager power;

    PhoneProbes(Context context) {
        power = (PowerManager) context.getSystemService(Context.POWER_SERVICE);
    }

    @Override
    public long nanoTime() {
        return System.nanoTime();
    }

    @Override
    public double usedMemoryMb() {
        Debug.MemoryInfo memory = new Debug.MemoryInfo();
        Debug.getMemoryInfo(memory);
        return memory.getTotalPss() * 1024 / 1e6; // the system counts KiB
    }

    @Override
    public int thermalStatus() {
        return Platform.thermalStatus(power);
    }
}
