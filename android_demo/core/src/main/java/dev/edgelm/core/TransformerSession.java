package dev.edgelm.core;

import java.nio.FloatBuffer;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * A session of a transformer: a ladder of {@code decode_C} signatures and {@code prefill_T} ones over caches that the app keeps.
 *
 * <p>Decoding uses the smallest rung with a free slot; the used part of the caches is copied once when the session moves to another
 * signature.
 */
final class TransformerSession extends Session {
    static final Pattern DECODE = Pattern.compile("decode_(\\d{1,9})");

    private static final Pattern PREFILL = Pattern.compile("prefill_(\\d{1,9})");

    /** A prefill call is used when at least this share of it is tokens: a call of 64 takes as long as 4 to 13 steps. */
    private static final double WORTH_PREFILL = 0.25;

    /** The cache rows since the snapshot before it on the same text; the chain back to null holds all of them. */
    private static final class RowSnapshot extends Snapshot {
        final TransformerSession owner;
        final RowSnapshot parent;
        final int start;
        final float[][] rows; // none at position 0

        RowSnapshot(TransformerSession owner, RowSnapshot parent, int start, float[][] rows) {
            super(owner.position);
            this.owner = owner;
            this.parent = parent;
            this.start = start;
            this.rows = rows;
        }
    }

    /** A signature that is allocated when it is first needed. */
    private final class Rung {
        final String name;
        final int slots;
        final int tokens;
        private CacheStage allocated;

        Rung(String name, int tokens) {
            this.name = name;
            this.slots = slotsOf(signatures.get(name));
            this.tokens = tokens;
        }

        CacheStage stage() {
            if (allocated == null) {
                CacheStage made = new CacheStage(name, signatures.get(name), runner, layout);
                if (!made.decodes && made.tokensPerCall != tokens) {
                    throw new EdgeLmException("signature " + name + " takes " + made.tokensPerCall + " tokens");
                }
                allocated = made;
            }
            return allocated;
        }
    }

    private final ModelRunner runner;
    private final Map<String, SignatureSpec> signatures;
    private final CacheStage.Layout layout;
    private final Rung[] ladder; // decode, shortest first
    private final Rung[] chunks; // prefill, fewest tokens first
    private CacheStage stage;
    private RowSnapshot lineage; // the snapshot that the present text goes on from
    private String called = "";

    TransformerSession(Map<String, SignatureSpec> signatures, ModelRunner runner) {
        super(vocabulary(signatures), longest(signatures));
        this.runner = runner;
        this.signatures = signatures;
        SignatureSpec first = signatures.get(bySize(signatures, DECODE).firstEntry().getValue());
        layout = new CacheStage.Layout(vocabSize(), first);
        ladder = rungs(DECODE);
        chunks = rungs(PREFILL);
        stage = ladder[0].stage();
    }

    @Override
    public void reset() {
        stage.showSlots(0);
        lineage = null;
        position = 0;
    }

    @Override
    public FloatBuffer step(int token) {
        check(token);
        if (position >= stage.slots || !stage.decodes || position == 0) {
            move(rung(position + 1));
        }
        FloatBuffer logits = stage.decode(token, position);
        position++;
        called = stage.name;
        return logits;
    }

    @Override
    FloatBuffer take(int[] tokens, int from, int to) {
        FloatBuffer logits = null;
        for (int at = from; at < to; ) {
            CacheStage chunk = chunkFor(to - at);
            if (chunk == null) {
                logits = step(tokens[at++]);
            } else {
                int count = Math.min(chunk.tokensPerCall, to - at);
                move(chunk);
                logits = chunk.prefill(tokens, at, count, position);
                position += count;
                called = chunk.name;
                at += count;
            }
        }
        return logits;
    }

    @Override
    public Snapshot snapshot() {
        int start = lineage == null ? 0 : lineage.position;
        if (lineage == null || start < position) {
            lineage = new RowSnapshot(this, lineage, start, stage.read(start, position));
        }
        return lineage;
    }

    @Override
    public void restore(Snapshot snapshot) {
        if (!(snapshot instanceof RowSnapshot) || ((RowSnapshot) snapshot).owner != this) {
            throw new EdgeLmException("the snapshot is another session's");
        }
        RowSnapshot wanted = (RowSnapshot) snapshot;
        RowSnapshot shared = commonAncestor(lineage, wanted);
        position = shared == null ? 0 : shared.position; // up to here the caches hold the snapshot's text already
        if (wanted.position > stage.slots) {
            move(rung(wanted.position));
        }
        for (RowSnapshot link = wanted; link != shared; link = link.parent) {
            stage.write(link.rows, link.start, link.position);
        }
        stage.showSlots(wanted.position);
        lineage = wanted;
        position = wanted.position;
    }

    @Override
    boolean prefills() {
        return chunks.length > 0;
    }

    @Override
    public String signature() {
        return called;
    }

    /** The largest prefill that fits behind the position and that the waiting tokens fill well enough; null for a step. */
    private CacheStage chunkFor(int waiting) {
        for (int i = chunks.length - 1; i >= 0; i--) {
            Rung chunk = chunks[i];
            if (waiting >= Math.max(2, WORTH_PREFILL * chunk.tokens) && position + chunk.tokens <= chunk.slots) {
                return chunk.stage();
            }
        }
        return null;
    }

    private CacheStage rung(int positions) {
        for (Rung rung : ladder) {
            if (rung.slots >= positions) {
                return rung.stage();
            }
        }
        throw full(1);
    }

    /** Makes a stage the one whose caches are valid up to the position. */
    private void move(CacheStage next) {
        if (next != stage) {
            next.copyFrom(stage, position);
            stage = next;
        }
    }

    private Rung[] rungs(Pattern pattern) {
        List<Rung> found = new ArrayList<>();
        for (Map.Entry<Integer, String> entry : bySize(signatures, pattern).entrySet()) {
            found.add(new Rung(entry.getValue(), entry.getKey()));
        }
        return found.toArray(new Rung[0]);
    }

    /** The latest snapshot on both chains; null where they part at the start. */
    private static RowSnapshot commonAncestor(RowSnapshot one, RowSnapshot other) {
        RowSnapshot a = one;
        RowSnapshot b = other;
        while (a != b) {
            int aPosition = a == null ? -1 : a.position;
            int bPosition = b == null ? -1 : b.position;
            a = aPosition >= bPosition && a != null ? a.parent : a;
            b = bPosition >= aPosition && b != null ? b.parent : b;
        }
        return a;
    }

    private static TreeMap<Integer, String> bySize(Map<String, SignatureSpec> signatures, Pattern pattern) {
        TreeMap<Integer, String> found = new TreeMap<>();
        for (String name : signatures.keySet()) {
            Matcher matcher = pattern.matcher(name);
            if (matcher.matches()) {
                found.put(Integer.valueOf(matcher.group(1)), name);
            }
        }
        return found;
    }

    private static int longest(Map<String, SignatureSpec> signatures) {
        return slotsOf(signatures.get(bySize(signatures, DECODE).lastEntry().getValue()));
    }

    private static int slotsOf(SignatureSpec spec) {
        TensorSpec mask = spec.inputs().get("mask");
        if (mask == null) {
            throw new EdgeLmException("a signature of the transformer has no input named mask");
        }
        return mask.size(mask.rank() - 1);
    }

    private static int vocabulary(Map<String, SignatureSpec> signatures) {
        TensorSpec scores = signatures.get(bySize(signatures, DECODE).firstEntry().getValue()).outputs().get("logits");
        if (scores == null) {
            throw new EdgeLmException("a decode signature has no output named logits");
        }
        return scores.size(scores.rank() - 1);
    }
}
