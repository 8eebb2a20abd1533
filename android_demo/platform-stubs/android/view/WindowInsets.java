package android.view;

import android.graphics.Insets;

/** Compile-only: what API 30 added. Documented at https://developer.android.com/reference/android/view/WindowInsets */
public final class WindowInsets {
    private WindowInsets() {}

    /** Since API 30. */
    public Insets getInsets(int typeMask) {
        throw new UnsupportedOperationException("stub");
    }

    /** Since API 30. */
    public static final class Type {
        private Type() {}

        public static int systemBars() {
            throw new UnsupportedOperationException("stub");
        }

        public static int displayCutout() {
            throw new UnsupportedOperationException("stub");
        }

        public static int ime() {
            throw new UnsupportedOperationException("stub");
        }
    }
}
