package dev.edgelm.demo.platform;

import android.os.PowerManager;

/** What needs Android 10. */
final class Api29 {
    private Api29() {}

    static int thermalStatus(PowerManager power) {
        return power.getCurrentThermalStatus();
    }
}
