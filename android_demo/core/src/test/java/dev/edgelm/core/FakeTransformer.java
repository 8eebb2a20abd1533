package dev.edgelm.core;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/**
 * A transformer whose logits say exactly what is in its caches: rungs of 4 and 16 slots and a prefill of 4 tokens, k laid out by slot, v
 * transposed.
 */
final class FakeTransformer implements ModelRunner {
    static final int VOCABULARY = 5;
    static final int HEADS = 2;
    static final int DIM = 3;

    private final Map<String, Call> calls = new HashMap<>();
    int runs;

    FakeTransformer() {
        calls.put("decode_4", new Call(4, 1));
        calls.put("decode_16", new Call(16, 1));
        calls.put("prefill_4", new Call(16, 4));
    }

    /** The manifest that describes it. */
    static Manifest manifest() {
        String signatures = signature("decode_4", 4, 1) + "," + signature("decode_16", 16, 1) + "," + signature("prefill_4", 16, 4);
        String json = "{\"schema_version\":1,\"name\":\"fake\",\"spec\":null,\"signatures\":{" + signatures + "}}";
        return Manifest.parse(json.getBytes(StandardCharsets.UTF_8));
    }

    /** The logits behind some tokens, without any cache. */
    static float[] expected(int... tokens) {
        float[] logits = new float[VOCABULARY];
        for (int j = 0; j < VOCABULARY; j++) {
            for (int slot = 0; slot + 1 < tokens.length; slot++) {
                logits[j] += seen(key(tokens[slot], slot, HEADS - 1, 1), value(tokens[slot], slot, 1, DIM - 1), slot, j);
            }
            logits[j] += tokens[tokens.length - 1];
        }
        return logits;
    }

    @Override
    public List<String> signatures() {
        return new ArrayList<>(calls.keySet());
    }

    @Override
    public Signature signature(String name) {
        return calls.get(name);
    }

    @Override
    public void close() {}

    private static float key(int token, int position, int head, int place) {
        return token + 10 * head + 100 * place + position / 8f;
    }

    private static float value(int token, int position, int head, int place) {
        return -2 * token - 20 * head - 200 * place - position / 4f;
    }

    private static float seen(float key, float value, int slot, int j) {
        return key * (slot + 1) + value * (j + 1);
    }

    private static String signature(String name, int slots, int tokens) {
        String own = tokens == 1 ? tensor("token", "int32", "1") : tensor("tokens", "int32", "4") + "," + tensor("last", "int32", "1");
        String caches = tensor("k_0", "float32", "1,2," + slots + ",3") + "," + tensor("v_0", "float32", "1,2,3," + slots);
        String rows = tensor("k_0", "float32", "1,2," + tokens + ",3") + "," + tensor("v_0", "float32", "1,2,3," + tokens);
        String inputs = own + "," + tensor("position", "int32", "1") + "," + tensor("mask", "float32", "1,1,1," + slots) + "," + caches;
        String outputs = tensor("logits", "float32", "1," + VOCABULARY) + "," + rows;
        return String.format(Locale.ROOT, "\"%s\":{\"inputs\":{%s},\"outputs\":{%s}}", name, inputs, outputs);
    }

    private static String tensor(String name, String type, String shape) {
        return String.format(Locale.ROOT, "\"%s\":{\"dtype\":\"%s\",\"shape\":[%s]}", name, type, shape);
    }

    /** One signature. */
    private final class Call implements Signature {
        private final int slots;
        private final int tokens;
        private final Map<String, int[]> shapes = new HashMap<>();
        private final Map<String, ByteBuffer> inputs = new HashMap<>();
        private final Map<String, ByteBuffer> outputs = new HashMap<>();
        private final FloatBuffer keys;
        private final FloatBuffer values;
        private final FloatBuffer mask;

        Call(int slots, int tokens) {
            this.slots = slots;
            this.tokens = tokens;
            input(tokens == 1 ? "token" : "tokens", tokens);
            input("last", 1);
            input("position", 1);
            input("mask", 1, 1, 1, slots);
            input("k_0", 1, HEADS, slots, DIM);
            input("v_0", 1, HEADS, DIM, slots);
            outputs.put("logits", memory(VOCABULARY));
            outputs.put("k_0", memory(HEADS * tokens * DIM));
            outputs.put("v_0", memory(HEADS * tokens * DIM));
            keys = inputs.get("k_0").asFloatBuffer();
            values = inputs.get("v_0").asFloatBuffer();
            mask = inputs.get("mask").asFloatBuffer();
        }

        @Override
        public int[] inputShape(String name) {
            return shapes.get(name);
        }

        @Override
        public ByteBuffer input(String name) {
            return inputs.get(name);
        }

        @Override
        public ByteBuffer output(String name) {
            return outputs.get(name);
        }

        @Override
        public void run() {
            runs++;
            int position = inputs.get("position").getInt(0);
            ByteBuffer given = inputs.get(tokens == 1 ? "token" : "tokens");
            int last = tokens == 1 ? 0 : inputs.get("last").getInt(0);
            for (int t = 0; t < tokens; t++) {
                writeRow(given.getInt(4 * t), position + t, t);
            }
            for (int j = 0; j < VOCABULARY; j++) {
                float sum = 0;
                for (int slot = 0; slot < slots; slot++) {
                    float key = keys.get((slots + slot) * DIM + 1); // second head
                    float value = values.get((DIM + DIM - 1) * slots + slot);
                    sum += mask.get(slot) == 0 ? seen(key, value, slot, j) : 0;
                }
                for (int t = 0; t < last; t++) {
                    int token = given.getInt(4 * t);
                    sum += seen(key(token, position + t, HEADS - 1, 1), value(token, position + t, 1, DIM - 1), position + t, j);
                }
                outputs.get("logits").putFloat(4 * j, sum + given.getInt(4 * last));
            }
        }

        private void writeRow(int token, int position, int t) {
            for (int head = 0; head < HEADS; head++) {
                for (int place = 0; place < DIM; place++) {
                    outputs.get("k_0").putFloat(4 * ((head * tokens + t) * DIM + place), key(token, position, head, place));
                    outputs.get("v_0").putFloat(4 * ((head * DIM + place) * tokens + t), value(token, position, head, place));
                }
            }
        }

        private void input(String name, int... shape) {
            int size = 1;
            for (int axis : shape) {
                size *= axis;
            }
            shapes.put(name, shape);
            inputs.put(name, memory(size));
        }

        private ByteBuffer memory(int elements) {
            return ByteBuffer.allocateDirect(4 * elements).order(ByteOrder.nativeOrder());
        }
    }
}
