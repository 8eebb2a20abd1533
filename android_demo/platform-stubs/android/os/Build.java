package android.os;

/** Compile-only: what API 31 added. Documented at https://developer.android.com/reference/android/os/Build */
public class Build {
    /** Since API 31; filled at run time, so that the compiler cannot inline it. */
    public static final String SOC_MANUFACTURER = filled();

    /** Since API 31. */
    public static final String SOC_MODEL = filled();

    private static String filled() {
        throw new UnsupportedOperationException("stub");
    }
}
