package dev.edgelm.core;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * Reads a tokenizer.json. Vocabulary and merges go straight into arrays; the other sections are small and become {@link Fields}.
 *
 * <p>A component this version does not know is refused by name: other ids than the model was trained with would be worse.
 */
final class TokenizerReader {
    private static final String NAME = Artifact.TOKENIZER;

    /** Normalizers that can take away the first character, behind which it is unknown whether a part begins the text. */
    private static final String[] SHORTENING = {"Strip", "StripAccents", "Replace", "Precompiled"};

    private final byte[] json;
    private final Map<String, Object> sections = new HashMap<>(); // small values of the file and, under "model.", of its model
    private final Map<String, Integer> offsets = new HashMap<>(); // where the large ones begin
    final Vocabulary vocabulary = new Vocabulary();
    final Merges merges = new Merges();
    final List<AddedTokens.Entry> added = new ArrayList<>();
    private double[] scores = new double[0];

    TokenizerReader(byte[] json) {
        this.json = json;
        JsonReader reader = new JsonReader(json, NAME);
        reader.beginObject();
        for (String key = reader.nextKey(); key != null; key = reader.nextKey()) {
            if (key.equals("model") && reader.peek() == '{') {
                readModel(reader);
            } else {
                sections.put(key, JsonValues.next(reader));
            }
        }
        reader.end();
    }

    /** The rule that changes texts. */
    Normalizer normalizer() {
        return Normalizers.of(fields("normalizer"));
    }

    /** The rule that cuts texts. */
    PreTokenizer preTokenizer() {
        for (String shortening : SHORTENING) {
            if (mentions("pre_tokenizer", "first") && mentions("normalizer", shortening)) {
                throw new EdgeLmException(
                        "tokenizer.json: the prepend_scheme first behind the normalizer " + shortening + " is not known", "always, never");
            }
        }
        return PreTokenizers.of(fields("pre_tokenizer"));
    }

    /** Whether the byte characters of GPT-2 are what tokens are written in. */
    boolean isByteLevel() {
        return mentions("pre_tokenizer", "ByteLevel") || mentions("decoder", "ByteLevel");
    }

    /** Whether what lies between words is dropped. */
    boolean dropsSpaces() {
        return mentions("pre_tokenizer", "Removed");
    }

    /** Fields of the model besides its tables. */
    Fields model() {
        Map<String, Object> own = new HashMap<>();
        for (Map.Entry<String, Object> entry : sections.entrySet()) {
            if (entry.getKey().startsWith("model.")) {
                own.put(entry.getKey().substring("model.".length()), entry.getValue());
            }
        }
        return Fields.of(own, NAME + ": model");
    }

    /** The type of the model; files of old versions have none for BPE. */
    String modelType() {
        return model().text("type", offsets.containsKey("merges") ? "BPE" : "");
    }

    /** Reads the tables and makes the model. Added tokens are in the vocabulary afterwards. */
    TokenModel readTables() {
        String type = modelType();
        TokenModel model;
        switch (type) {
            case "WordLevel":
                readVocabulary();
                model = new WordLevelModel(vocabulary, vocabulary.findAny(model().text("unk_token")));
                break;
            case "BPE":
                readVocabulary();
                readMerges();
                model = new BpeModel(vocabulary, merges, bpeRules());
                break;
            case "Unigram":
                readScores();
                model = new UnigramModel(vocabulary, scores, model().count("unk_id", Tokenizer.NONE), bytePieces());
                break;
            default:
                String met = type.isEmpty() ? "without a type" : type;
                throw new EdgeLmException("tokenizer.json: the model " + met + " is not known", "WordLevel, BPE, Unigram");
        }
        readAdded();
        return model;
    }

    private void readModel(JsonReader reader) {
        reader.beginObject();
        for (String key = reader.nextKey(); key != null; key = reader.nextKey()) {
            if (key.equals("vocab") || key.equals("merges")) {
                offsets.put(key, reader.offset());
                reader.skipValue();
            } else {
                sections.put("model." + key, JsonValues.next(reader));
            }
        }
    }

    private JsonReader table(String key) {
        if (!offsets.containsKey(key)) {
            throw new EdgeLmException("tokenizer.json: its model has no " + key, "", "convert the model again", null);
        }
        return new JsonReader(json, NAME, offsets.get(key));
    }

    private void readVocabulary() {
        JsonReader reader = table("vocab");
        ByteList token = new ByteList();
        reader.beginObject();
        for (token.clear(); reader.nextKey(token); token.clear()) {
            vocabulary.add(token, reader.nextDouble());
        }
    }

    private void readScores() {
        JsonReader reader = table("vocab");
        ByteList token = new ByteList();
        double[] read = new double[1024];
        int count = 0;
        reader.beginArray();
        while (reader.nextElement()) {
            token.clear();
            reader.beginArray();
            boolean whole = reader.nextElement();
            reader.nextString(token);
            whole &= reader.nextElement();
            if (count == read.length) {
                read = Arrays.copyOf(read, 2 * count);
            }
            read[count] = reader.nextDouble();
            if (!whole || reader.nextElement()) {
                throw reader.error("a piece is no pair of text and score");
            }
            vocabulary.add(token, count++);
        }
        scores = Arrays.copyOf(read, count);
    }

    private void readMerges() {
        JsonReader reader = table("merges");
        ByteList pair = new ByteList();
        reader.beginArray();
        while (reader.nextElement()) {
            pair.clear();
            int cut;
            if (reader.peek() == '[') {
                reader.beginArray();
                boolean whole = reader.nextElement();
                reader.nextString(pair);
                cut = pair.size();
                whole &= reader.nextElement();
                reader.nextString(pair);
                if (!whole || reader.nextElement()) {
                    throw reader.error("a merge is no pair of pieces");
                }
            } else {
                reader.nextString(pair);
                cut = withoutSpace(pair, reader);
            }
            addMerge(pair, cut, reader);
        }
    }

    /** Takes the space out of "left right" and gives its place. */
    private static int withoutSpace(ByteList pair, JsonReader reader) {
        byte[] text = pair.toArray();
        int cut = 0;
        while (cut < text.length && text[cut] != ' ') {
            cut++;
        }
        if (cut == text.length) {
            throw reader.error("a merge is no pair of pieces");
        }
        pair.clear();
        pair.add(text, 0, cut);
        pair.add(text, cut + 1, text.length);
        return cut;
    }

    private void addMerge(ByteList pair, int cut, JsonReader reader) {
        int left = vocabulary.find(pair.array(), 0, cut);
        int right = vocabulary.find(pair.array(), cut, pair.size());
        int joined = vocabulary.find(pair.array(), 0, pair.size());
        if (left < 0 || right < 0 || joined < 0) {
            throw reader.error("the merge that gives " + pair + " needs a piece that is not in the vocabulary");
        }
        merges.add(left, right, joined);
    }

    private BpeModel.Rules bpeRules() {
        Fields model = model();
        for (String affix : new String[] {"continuing_subword_prefix", "end_of_word_suffix"}) {
            if (!model.text(affix, "").isEmpty()) {
                throw new EdgeLmException("tokenizer.json: a BPE model with " + affix + " is not known", "byte-level BPE");
            }
        }
        int unknown = model.has("unk_token") ? vocabulary.findAny(model.text("unk_token")) : Tokenizer.NONE;
        return new BpeModel.Rules(unknown, model.flag("fuse_unk", false), bytePieces(), model.flag("ignore_merges", false));
    }

    private BytePieces bytePieces() {
        return model().flag("byte_fallback", false) ? new BytePieces(vocabulary) : null;
    }

    private void readAdded() {
        for (Fields fields : Fields.of(sections, NAME).objects("added_tokens")) {
            AddedTokens.Entry entry = new AddedTokens.Entry(fields);
            vocabulary.addOutside(entry.content, entry.id);
            added.add(entry);
        }
    }

    private Fields fields(String section) {
        return sections.get(section) == null ? null : Fields.of(sections.get(section), NAME + ": " + section);
    }

    /** Whether a section holds a text as a value, at any depth. */
    private boolean mentions(String section, String value) {
        return mentions(sections.get(section), value);
    }

    private static boolean mentions(Object node, String value) {
        if (node instanceof Map) {
            return mentions(new ArrayList<>(((Map<?, ?>) node).values()), value);
        }
        if (node instanceof List) {
            for (Object child : (List<?>) node) {
                if (mentions(child, value)) {
                    return true;
                }
            }
            return false;
        }
        return value.equals(node);
    }
}
