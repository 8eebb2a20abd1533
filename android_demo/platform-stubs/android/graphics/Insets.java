package android.graphics;

/** Compile-only: since API 29. Documented at https://developer.android.com/reference/android/graphics/Insets */
public final class Insets {
    public final int left;
    public final int top;
    public final int right;
    public final int bottom;

    private Insets(int left, int top, int right, int bottom) {
        this.left = left;
        this.top = top;
        this.right = right;
        this.bottom = bottom;
    }
}
