package @PACKAGE@;

import java.nio.FloatBuffer;
import java.util.Arrays;

/**
 * What Python computed with @MODEL_NAME@ on @GOLDEN_RUNTIME@ when this module was written.
 *
 * <p>Token ids must be equal. Of the model, only its likeliest tokens are compared, and each continuation ends before the first token
 * whose lead is under 0.1 percent of the spread of the logits: kernels of different CPUs differ in the last bits, so that equal logits
 * are more than a phone can promise, and other tokens than these are a defect.
 */
final class @CLASS@Golden {
@TABLES@

    private @CLASS@Golden() {}

    /**
     * Compares a model with the tables.
     *
     * @param model the one under test; it is reset
     * @return comparisons made
     * @throws AssertionError the first difference
     */
    static int check(@CLASS@ model) {
@CHECKS@
    }

@GREEDY@

    private static int best(FloatBuffer logits) {
        int best = 0;
        for (int i = 1; i < @CLASS@.VOCABULARY; i++) {
            if (logits.get(i) > logits.get(best)) {
                best = i;
            }
        }
        return best;
    }
}
