package dev.edgelm.demo;

import android.content.Context;
import android.graphics.Canvas;
import android.graphics.Paint;
import android.graphics.Path;
import android.util.AttributeSet;
import android.view.View;

/** A line chart of the time of each token, with the median across it. */
public final class ChartView extends View {
    private static final int MOST_POINTS = 1000; // more than a phone has pixels across

    private final Paint line = stroke(R.color.chart_line);
    private final Paint grid = stroke(R.color.chart_grid);
    private final Paint median = stroke(R.color.chart_median);
    private final Paint label = new Paint(Paint.ANTI_ALIAS_FLAG);
    private final Path path = new Path();
    private double[] times = {}; // at most MOST_POINTS
    private double middle;
    private double top = 1;

    /**
     * A chart in a layout.
     *
     * @param context of the screen
     * @param attributes of the layout
     */
    public ChartView(Context context, AttributeSet attributes) {
        super(context, attributes);
        label.setColor(context.getColor(R.color.chart_text));
        label.setTextSize(getResources().getDimension(R.dimen.chart_text));
    }

    /**
     * Shows a measurement.
     *
     * @param ms of each token, in order
     * @param medianMs their median
     */
    void show(double[] ms, double medianMs) {
        times = slowestOfEachSpan(ms);
        middle = medianMs;
        double slowest = medianMs;
        for (double time : times) {
            slowest = Math.max(slowest, time);
        }
        top = slowest > 0 ? slowest : 1;
        String text = getContext().getString(R.string.chart_description, ms.length, Numbers.shortly(middle), Numbers.shortly(top));
        setContentDescription(text);
        setVisibility(VISIBLE);
        invalidate();
    }

    @Override
    protected void onDraw(Canvas canvas) {
        super.onDraw(canvas);
        if (times.length == 0) {
            return;
        }
        canvas.drawLine(0, y(0), getWidth(), y(0), grid);
        canvas.drawLine(0, y(top), getWidth(), y(top), grid);
        canvas.drawLine(0, y(middle), getWidth(), y(middle), median);
        path.rewind();
        path.moveTo(0, y(times[0]));
        for (int i = 1; i < times.length; i++) {
            path.lineTo((float) getWidth() * i / (times.length - 1), y(times[i]));
        }
        canvas.drawPath(path, line);
        canvas.drawText(getContext().getString(R.string.chart_axis, Numbers.shortly(top)), 0, label.getTextSize(), label);
        String name = getContext().getString(R.string.chart_median);
        canvas.drawText(name, getWidth() - label.measureText(name), Math.max(y(middle) - 4, label.getTextSize()), label);
    }

    private static double[] slowestOfEachSpan(double[] ms) {
        double[] points = new double[Math.min(ms.length, MOST_POINTS)];
        for (int i = 0; i < ms.length; i++) {
            int point = (int) ((long) i * points.length / ms.length);
            points[point] = Math.max(points[point], ms[i]);
        }
        return points;
    }

    private float y(double ms) {
        float room = label.getTextSize() * 1.5f;
        return (float) (getHeight() - 1 - (getHeight() - 1 - room) * ms / top);
    }

    private Paint stroke(int color) {
        Paint paint = new Paint(Paint.ANTI_ALIAS_FLAG);
        paint.setStyle(Paint.Style.STROKE);
        paint.setStrokeWidth(getResources().getDimension(R.dimen.chart_stroke));
        paint.setColor(getContext().getColor(color));
        return paint;
    }
}
