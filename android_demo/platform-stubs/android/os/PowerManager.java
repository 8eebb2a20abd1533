package android.os;

/** Compile-only: what API 29 added. Documented at https://developer.android.com/reference/android/os/PowerManager */
public final class PowerManager {
    private PowerManager() {}

    /** Since API 29. */
    public int getCurrentThermalStatus() {
        throw new UnsupportedOperationException("stub");
    }
}
