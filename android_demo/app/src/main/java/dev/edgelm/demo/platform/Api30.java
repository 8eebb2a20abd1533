package dev.edgelm.demo.platform;

import android.annotation.TargetApi;
import android.graphics.Insets;
import android.graphics.Rect;
import android.view.WindowInsets;

/** What needs Android 11. */
@TargetApi(30)
final class Api30 {
    private Api30() {}

    static Rect barsAndKeyboard(WindowInsets insets) {
        int types = WindowInsets.Type.systemBars() | WindowInsets.Type.displayCutout() | WindowInsets.Type.ime();
        Insets covered = insets.getInsets(types);
        return new Rect(covered.left, covered.top, covered.right, covered.bottom);
    }
}
