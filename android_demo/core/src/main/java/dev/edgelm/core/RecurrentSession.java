package dev.edgelm.core;

import java.nio.FloatBuffer;
import java.nio.IntBuffer;
import java.util.ArrayList;
import java.util.List;

/** A session of a model with {@code step(token (1,), states (1, units)) -> logits (1, vocab), states}. */
final class RecurrentSession extends Session {
    static final String STEP = "step";

    /** Copies of the states. */
    private static final class StateSnapshot extends Snapshot {
        final RecurrentSession owner;
        final float[][] states;

        StateSnapshot(RecurrentSession owner) {
            super(owner.position);
            this.owner = owner;
            states = new float[owner.states.length][];
            for (int i = 0; i < states.length; i++) {
                FloatBuffer state = owner.states[i];
                state.clear();
                states[i] = new float[state.remaining()];
                state.get(states[i]);
            }
        }
    }

    private final Signature signature;
    private final IntBuffer token;
    private final FloatBuffer logits;
    private final FloatBuffer[] states; // inputs
    private final FloatBuffer[] news; // outputs, in the same order
    private boolean called;

    RecurrentSession(SignatureSpec spec, ModelRunner runner) {
        super(vocabulary(spec), UNLIMITED);
        signature = runner.signature(STEP);
        token = ints(signature, "token", spec.inputs().get("token"));
        logits = floats(signature, "logits", spec.outputs().get("logits"), false);
        List<FloatBuffer> inputs = new ArrayList<>();
        List<FloatBuffer> outputs = new ArrayList<>();
        for (String name : spec.inputs().keySet()) {
            if (!name.equals("token")) {
                FloatBuffer state = floats(signature, name, spec.inputs().get(name), true);
                FloatBuffer next = floats(signature, name, spec.outputs().get(name), false);
                if (state.capacity() != next.capacity()) {
                    throw new EdgeLmException("state " + name + " goes in with another size than it comes out");
                }
                inputs.add(state);
                outputs.add(next);
            }
        }
        states = inputs.toArray(new FloatBuffer[0]);
        news = outputs.toArray(new FloatBuffer[0]);
        reset();
    }

    @Override
    public void reset() {
        for (FloatBuffer state : states) {
            for (int i = 0; i < state.capacity(); i++) {
                state.put(i, 0);
            }
        }
        position = 0;
    }

    @Override
    public FloatBuffer step(int id) {
        check(id);
        token.put(0, id);
        signature.run();
        for (int i = 0; i < states.length; i++) {
            states[i].clear();
            news[i].clear();
            states[i].put(news[i]);
        }
        position++;
        called = true;
        logits.clear();
        return logits;
    }

    @Override
    public Snapshot snapshot() {
        return new StateSnapshot(this);
    }

    @Override
    public void restore(Snapshot snapshot) {
        if (!(snapshot instanceof StateSnapshot) || ((StateSnapshot) snapshot).owner != this) {
            throw new EdgeLmException("the snapshot is another session's");
        }
        for (int i = 0; i < states.length; i++) {
            states[i].clear();
            states[i].put(((StateSnapshot) snapshot).states[i]);
        }
        position = snapshot.position;
    }

    @Override
    public String signature() {
        return called ? STEP : "";
    }

    private static int vocabulary(SignatureSpec spec) {
        TensorSpec scores = spec.outputs().get("logits");
        if (scores == null) {
            throw new EdgeLmException("signature " + STEP + " has no output named logits");
        }
        return scores.size(scores.rank() - 1);
    }
}
