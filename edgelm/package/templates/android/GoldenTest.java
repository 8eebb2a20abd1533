package @PACKAGE@;

import static org.junit.Assert.assertTrue;

import androidx.test.platform.app.InstrumentationRegistry;
import org.junit.Test;

/** Runs on a device: {@code ./gradlew :@NAME@:connectedAndroidTest}. */
public final class @CLASS@GoldenTest {
    @Test
    public void equalsPython() {
        try (@CLASS@ model = @CLASS@.open(InstrumentationRegistry.getInstrumentation().getTargetContext(), 1)) {
            assertTrue("nothing was compared", @CLASS@Golden.check(model) > 0);
        }
    }
}
