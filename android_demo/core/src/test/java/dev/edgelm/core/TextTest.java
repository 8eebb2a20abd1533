package dev.edgelm.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;

import java.nio.charset.StandardCharsets;
import org.junit.Test;

public final class TextTest {
    @Test
    public void bytesBecomeTextWhenACharacterIsWhole() {
        Utf8Decoder decoder = new Utf8Decoder();
        StringBuilder text = new StringBuilder();
        for (byte value : "aé東😀".getBytes(StandardCharsets.UTF_8)) {
            String part = decoder.add(new byte[] {value});
            assertEquals(part, CodePoints.repaired(part)); // never half of a character
            text.append(part);
        }
        assertEquals("aé東😀", text.toString());
        assertEquals("", decoder.end());
    }

    @Test
    public void badBytesBecomeReplacementsAsInPython() {
        int[][] bytes = {{0xFF}, {0xE6, 0x9D}, {0xE6, 0x41}, {0xC0, 0x80}, {0xED, 0xA0, 0x80}, {0xF0, 0x9F, 0x98, 0x41}, {0xF5}, {0x80}};
        String[] texts = {"\uFFFD", "\uFFFD", "\uFFFDA", "\uFFFD\uFFFD", "\uFFFD\uFFFD\uFFFD", "\uFFFDA", "\uFFFD", "\uFFFD"};
        for (int i = 0; i < bytes.length; i++) {
            byte[] given = new byte[bytes[i].length];
            for (int j = 0; j < given.length; j++) {
                given[j] = (byte) bytes[i][j];
            }
            assertEquals(texts[i], Utf8Decoder.decode(given));
        }
    }

    @Test
    public void halvesOfSurrogatePairsAreReplaced() {
        assertEquals("a\uFFFDb😀\uFFFD", CodePoints.repaired("a\uD83Db😀\uDE00"));
        String sound = "a😀";
        assertEquals(sound, CodePoints.repaired(sound));
    }

    @Test
    public void patternsThatReadDifferentlyAreRefused() {
        String[] patterns = {"^a", "a$", "\\ba", "\\h", "\\p{Han}", "[a[b]]", "[a&&b]", "a{1,3}+", "a\\", "[\\S]", "(", "\\K"};
        for (String pattern : patterns) {
            assertThrows(pattern, EdgeLmException.class, () -> Patterns.of(pattern));
        }
        assertArrayEquals(new String[] {"a", "b"}, Patterns.of("\\s+").split("a\u2003\u3000b"));
    }

    @Test
    public void lettersAreLoweredOneByOne() {
        assertEquals("i\u0307σς ß", Normalizers.lowered("İΣς ß"));
        assertEquals("ΟΔΥΣΣΕΥς Σ ΑΣΑ aς.", FinalSigma.apply("ΟΔΥΣΣΕΥΣ Σ ΑΣΑ aΣ."));
    }
}
