package dev.edgelm.demo;

import dev.edgelm.demo.engine.Job;

/**
 * A screen with a job: a rotation hands it to the next screen, leaving the screen stops it.
 *
 * @param <J> the job
 */
@SuppressWarnings("deprecation") // the platform's own way to hand a job to the next screen; androidx has another
abstract class JobActivity<J extends Job<J>> extends ScreenActivity implements Job.Watcher<J> {
    /** The latest job; null before the first. */
    J job;

    /** Takes over the job of the screen before a rotation, if there is one; once the layout is shown. */
    @SuppressWarnings("unchecked") // it is what onRetainNonConfigurationInstance of this class gave
    final void resumeJob() {
        job = (J) getLastNonConfigurationInstance();
        if (job != null) {
            job.watch(this);
        }
    }

    /** Starts a job in place of the one before. */
    final void start(J next) {
        job = next;
        job.watch(this);
        job.start();
    }

    @Override
    public final Object onRetainNonConfigurationInstance() {
        return job;
    }

    /** In the background nobody reads along, and the cores are others and slower: figures from there would mislead. */
    @Override
    protected void onStop() {
        if (job != null && !isChangingConfigurations()) {
            job.stop();
        }
        super.onStop();
    }

    @Override
    protected void onDestroy() {
        if (job != null) {
            job.watch(null);
        }
        super.onDestroy();
    }
}
