package dev.edgelm.demo.platform;

import android.graphics.Rect;
import android.os.Build;
import android.os.PowerManager;
import android.view.WindowInsets;

/**
 * What newer Android versions offer, with what older ones have instead.
 *
 * <p>Calls above minSdk stand in classes named after their API level, which the older runtime never loads.
 */
public final class Platform {
    private Platform() {}

    /**
     * How hot the device is.
     *
     * @param power the system's power manager
     * @return 0 (none, or unknown before Android 10) to 6 (shutdown)
     */
    public static int thermalStatus(PowerManager power) {
        return Build.VERSION.SDK_INT >= 29 ? Api29.thermalStatus(power) : 0;
    }

    /**
     * The system on chip.
     *
     * @return such as {@code Google Tensor}; before Android 12 the board's hardware name
     */
    public static String soc() {
        return Build.VERSION.SDK_INT >= 31 ? Api31.soc() : Build.HARDWARE;
    }

    /**
     * The edges of a window that system bars, the camera's cut-out and the keyboard cover.
     *
     * @param insets of the window
     * @return widths of the covered edges, px
     */
    @SuppressWarnings("deprecation") // before Android 11 there is nothing else
    public static Rect barsAndKeyboard(WindowInsets insets) {
        if (Build.VERSION.SDK_INT >= 30) {
            return Api30.barsAndKeyboard(insets);
        }
        return new Rect(
                insets.getSystemWindowInsetLeft(),
                insets.getSystemWindowInsetTop(),
                insets.getSystemWindowInsetRight(),
                insets.getSystemWindowInsetBottom());
    }
}
