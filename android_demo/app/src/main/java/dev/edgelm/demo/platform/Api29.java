package dev.edgelm.demo.platform;

import android.annotation.TargetApi;
import android.os.PowerManager;

/** What needs Android 10. */
@TargetApi(29)
final class Api29 {
    private Api29() {}

    static int thermalStatus(PowerManager power) {
        return power.getCurrentThermalStatus();
    }
}
