package dev.edgelm.demo.platform;

import android.annotation.TargetApi;
import android.os.Build;

/** What needs Android 12. */
@TargetApi(31)
final class Api31 {
    private Api31() {}

    static String soc() {
        return (Build.SOC_MANUFACTURER + " " + Build.SOC_MODEL).trim();
    }
}
