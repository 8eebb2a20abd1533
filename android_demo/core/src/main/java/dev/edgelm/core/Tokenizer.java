package dev.edgelm.core;

import java.nio.charset.StandardCharsets;
import java.util.BitSet;

/**
 * Text to token ids and back: the {@code tokenizer.json} of an artifact, with the same ids as edgelm's Python
 * ({@code edgelm.text.tokenizer.Tokenizer}).
 *
 * <pre>{@code
 * Tokenizer tokenizer = artifact.tokenizer();
 * int[] ids = tokenizer.encode("See YOU tomorrow"); // [85, 9, 118]
 * tokenizer.piece(9); // " you"
 * }</pre>
 *
 * Word-level, byte-level BPE, Unigram and character tokenizers, and what sentencepiece and tiktoken files become. Not thread-safe:
 * encoding reuses its arrays.
 */
public final class Tokenizer {
    /** What {@link #unknownId()}, {@link #boundaryId()} and {@link #startId()} give where there is no such token. */
    public static final int NONE = -1;

    private static final String[] BOUNDARIES = {"</s>", "<|endoftext|>", "<eos>", "[SEP]", "<|end_of_text|>", "[EOS]"};
    private static final String[] STARTS = {"<s>", "<bos>", "[CLS]", "<|begin_of_text|>", "[BOS]"};
    private static final String[] UNKNOWNS = {"<unk>", "[UNK]", "<UNK>", "<|unk|>"};
    private static final char SPACE = '\u2581';

    private final Vocabulary vocabulary;
    private final Normalizer normalizer;
    private final PreTokenizer preTokenizer;
    private final TokenModel model;
    private final AddedTokens written = new AddedTokens(); // found in the text as it is written
    private final AddedTokens normalized = new AddedTokens(); // found after normalization
    private final BitSet addedIds = new BitSet();
    private final BitSet specialIds = new BitSet();
    private final IntList ids = new IntList();
    private final PieceSink encoding = this::encodePiece;
    private final AddedTokens.Sink normalizing = new Normalizing();
    private final AddedTokens.Sink cutting = new Cutting();
    private boolean atStart; // the part that is being normalized begins the text
    private final String kind;
    private final int unknownId;
    private final int boundaryId;
    private final int startId;

    /** Takes what lies between the tokens of the written text. */
    private final class Normalizing implements AddedTokens.Sink {
        @Override
        public void token(int id) {
            ids.add(id);
        }

        @Override
        public void text(String part, boolean first) {
            atStart = first;
            normalized.split(normalizer.apply(part), cutting);
        }
    }

    /** Takes what lies between the tokens of a normalized part. */
    private final class Cutting implements AddedTokens.Sink {
        @Override
        public void token(int id) {
            ids.add(id);
        }

        @Override
        public void text(String part, boolean first) {
            preTokenizer.split(part, 0, part.length(), atStart && first, encoding);
        }
    }

    private Tokenizer(TokenizerReader reader) {
        normalizer = reader.normalizer();
        preTokenizer = reader.preTokenizer();
        model = reader.readTables();
        vocabulary = reader.vocabulary;
        for (AddedTokens.Entry entry : reader.added) {
            addedIds.set(entry.id);
            specialIds.set(entry.id, specialIds.get(entry.id) || entry.special);
            if (entry.normalized) {
                normalized.add(entry, normalizer.apply(entry.content));
            } else {
                written.add(entry, entry.content);
            }
        }
        kind = kindOf(reader);
        unknownId = unknownOf(reader);
        int boundary = vocabulary.findFirst(BOUNDARIES);
        boundaryId = boundary < 0 && kind.equals("char") ? vocabulary.findAny("\n") : boundary;
        int start = vocabulary.findFirst(STARTS);
        startId = start < 0 ? boundaryId : start;
        markSpecial(BOUNDARIES);
        markSpecial(STARTS);
        if (unknownId >= 0) {
            specialIds.set(unknownId);
        }
    }

    /**
     * Reads a tokenizer.
     *
     * @param json the content of {@code tokenizer.json}, UTF-8
     * @return the tokenizer
     * @throws EdgeLmException it is damaged, or has a component that is not known, which is named
     */
    public static Tokenizer parse(byte[] json) {
        return new Tokenizer(new TokenizerReader(json));
    }

    /**
     * The kind of tokens.
     *
     * @return {@code word}, {@code byte-bpe}, {@code bpe}, {@code unigram} or {@code char}
     */
    public String kind() {
        return kind;
    }

    /**
     * The number of ids.
     *
     * @return largest id + 1; ids in between may have no token
     */
    public int vocabSize() {
        return vocabulary.size();
    }

    /**
     * The token of text that has no piece.
     *
     * @return its id, or {@link #NONE} where every text has pieces
     */
    public int unknownId() {
        return unknownId;
    }

    /**
     * The token that stands between turns and lines.
     *
     * @return its id, or {@link #NONE}
     */
    public int boundaryId() {
        return boundaryId;
    }

    /**
     * The token before a text.
     *
     * @return its id, {@link #boundaryId()} where the tokenizer has none of its own, or {@link #NONE}
     */
    public int startId() {
        return startId;
    }

    /**
     * Cuts a text into tokens; no special tokens are added.
     *
     * @param text any text; halves of surrogate pairs count as U+FFFD
     * @return the ids
     * @throws EdgeLmException it has characters without a piece, and the tokenizer has no unknown token
     */
    public int[] encode(String text) {
        ids.clear();
        written.split(CodePoints.repaired(text), normalizing);
        return ids.toArray();
    }

    /**
     * A token as the vocabulary writes it: {@code Ġthe}, {@code ▁the}, {@code </s>}.
     *
     * @param id any id
     * @return the token; empty for an id without one
     */
    public String token(int id) {
        return vocabulary.token(id);
    }

    /**
     * The UTF-8 bytes a token stands for, with the leading space of one that begins a word.
     *
     * @param id any id
     * @return the bytes, a new array; empty for special tokens and ids without a token
     */
    public byte[] pieceBytes(int id) {
        String token = isSpecial(id) ? "" : token(id);
        if (token.isEmpty() || addedIds.get(id)) {
            return token.getBytes(StandardCharsets.UTF_8);
        }
        switch (kind) {
            case "byte-bpe":
                return ByteLevel.bytesOf(token);
            case "word":
                return (" " + (token.charAt(0) == SPACE ? token.substring(1) : token)).getBytes(StandardCharsets.UTF_8);
            default:
                return bytesOfMetaspace(token);
        }
    }

    /**
     * The text a token stands for, with the leading space of one that begins a word.
     *
     * @param id any id
     * @return the text; bytes that are no character of their own are shown as U+FFFD, special tokens as they are written
     */
    public String piece(int id) {
        return isSpecial(id) ? token(id) : Utf8Decoder.decode(pieceBytes(id));
    }

    /**
     * Whether a token stands for no text: boundaries, the unknown token.
     *
     * @param id any id
     * @return true for special tokens
     */
    public boolean isSpecial(int id) {
        return id >= 0 && specialIds.get(id);
    }

    /**
     * Whether a token begins a new word: by a leading space, always for word-level tokenizers and boundaries, never for the unknown
     * token of other kinds.
     *
     * @param id any id
     * @return true where it does
     */
    public boolean isWordStart(int id) {
        if (kind.equals("word") || isSpecial(id) && id != unknownId) {
            return true;
        }
        byte[] bytes = pieceBytes(id);
        return bytes.length > 0 && (bytes[0] == ' ' || bytes[0] >= 0x09 && bytes[0] <= 0x0D);
    }

    private void encodePiece(CharSequence text, int start, int end) {
        model.encode(text, start, end, ids);
    }

    private String kindOf(TokenizerReader reader) {
        switch (reader.modelType()) {
            case "WordLevel":
                return cutsLetters() ? "char" : "word";
            case "Unigram":
                return "unigram";
            default:
                if (reader.isByteLevel()) {
                    return "byte-bpe";
                }
                if (reader.merges.count() > 0) {
                    return "bpe";
                }
                return reader.model().flag("ignore_merges", false) && reader.dropsSpaces() ? "word" : "char";
        }
    }

    /** Whether the first two tokens that are single letters, written together, are two tokens. */
    private boolean cutsLetters() {
        StringBuilder letters = new StringBuilder();
        int count = 0;
        for (int id = 0; id < vocabulary.size() && count < 2; id++) {
            String token = vocabulary.token(id);
            if (token.codePointCount(0, token.length()) == 1 && Character.isLetter(token.codePointAt(0))) {
                letters.append(token);
                count++;
            }
        }
        return count == 2 && encode(letters.toString()).length == 2;
    }

    private int unknownOf(TokenizerReader reader) {
        Fields fields = reader.model();
        if (fields.has("unk_id")) {
            return fields.count("unk_id", NONE);
        }
        return fields.text("unk_token", "").isEmpty() ? vocabulary.findFirst(UNKNOWNS) : vocabulary.findAny(fields.text("unk_token"));
    }

    private void markSpecial(String[] tokens) {
        for (String token : tokens) {
            int id = vocabulary.findAny(token);
            if (id >= 0) {
                specialIds.set(id);
            }
        }
    }

    private static byte[] bytesOfMetaspace(String token) {
        if (token.matches("<0x[0-9A-Fa-f]{2}>")) {
            return new byte[] {(byte) Integer.parseInt(token.substring(3, 5), 16)};
        }
        return token.replace(SPACE, ' ').getBytes(StandardCharsets.UTF_8);
    }
}
