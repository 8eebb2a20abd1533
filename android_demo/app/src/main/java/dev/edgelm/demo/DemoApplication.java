package dev.edgelm.demo;

import android.app.Application;
import android.content.ComponentCallbacks2;
import android.content.Context;
import dev.edgelm.demo.engine.EngineHost;
import dev.edgelm.demo.engine.ModelStore;

/** Holds what outlives screens: the models and the engine. */
public final class DemoApplication extends Application {
    private ModelStore models;
    private EngineHost engine;

    @Override
    public void onCreate() {
        super.onCreate();
        models = new ModelStore(this);
        engine = new EngineHost(models);
    }

    /**
     * The application of a screen.
     *
     * @param context a screen or the instrumentation's target
     * @return its application
     */
    public static DemoApplication of(Context context) {
        return (DemoApplication) context.getApplicationContext();
    }

    /**
     * The models on this phone.
     *
     * @return the one store
     */
    public ModelStore models() {
        return models;
    }

    /**
     * The engine, which runs one model at a time.
     *
     * @return the one host
     */
    public EngineHost engine() {
        return engine;
    }

    /** In the background and short of memory, the model goes; the next question loads it again, from the mapped file. */
    @Override
    public void onTrimMemory(int level) {
        super.onTrimMemory(level);
        if (level >= ComponentCallbacks2.TRIM_MEMORY_BACKGROUND) {
            engine.release();
        }
    }
}
