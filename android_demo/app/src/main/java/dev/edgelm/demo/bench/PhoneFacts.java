package dev.edgelm.demo.bench;

import android.app.ActivityManager;
import android.content.Context;
import android.os.Build;
import dev.edgelm.core.Device;
import dev.edgelm.demo.platform.Platform;
import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** What a profile report says of the phone. */
final class PhoneFacts {
    private static final Map<String, String> NAMES = new LinkedHashMap<>(); // as the kernel says it, as reports say it

    static {
        NAMES.put("asimd", "neon");
        NAMES.put("asimdhp", "fp16");
        NAMES.put("asimddp", "dotprod");
        NAMES.put("sve", "sve");
        NAMES.put("sve2", "sve2");
        NAMES.put("i8mm", "i8mm");
        NAMES.put("bf16", "bf16");
        NAMES.put("sme", "sme");
        NAMES.put("avx", "avx");
        NAMES.put("avx2", "avx2");
        NAMES.put("fma", "fma");
        NAMES.put("avx512f", "avx512f");
        NAMES.put("avx512_vnni", "avx512vnni");
    }

    private PhoneFacts() {}

    /** This phone. */
    static Device device(Context context) {
        ActivityManager.MemoryInfo memory = new ActivityManager.MemoryInfo();
        ((ActivityManager) context.getSystemService(Context.ACTIVITY_SERVICE)).getMemoryInfo(memory);
        return new Device(
                Build.MANUFACTURER,
                Build.MODEL,
                Platform.soc(),
                Build.SUPPORTED_ABIS[0],
                Build.VERSION.SDK_INT,
                Runtime.getRuntime().availableProcessors(),
                memory.totalMem / 1e6,
                cpuFeatures());
    }

    /** The CPU features that decide which kernels the runtime takes: of the first core the kernel lists; none when it hides them. */
    private static List<String> cpuFeatures() {
        try (BufferedReader reader =
                new BufferedReader(new InputStreamReader(new FileInputStream("/proc/cpuinfo"), StandardCharsets.UTF_8))) {
            for (String line = reader.readLine(); line != null; line = reader.readLine()) {
                if (line.startsWith("Features") || line.startsWith("flags")) {
                    return named(line.substring(line.indexOf(':') + 1));
                }
            }
        } catch (IOException hidden) {
            return new ArrayList<>(); // some vendors' policies hide the file: the report then says nothing of features
        }
        return new ArrayList<>();
    }

    private static List<String> named(String words) {
        List<String> present = Arrays.asList(words.trim().split("\\s+"));
        List<String> found = new ArrayList<>();
        for (Map.Entry<String, String> name : NAMES.entrySet()) {
            if (present.contains(name.getKey())) {
                found.add(name.getValue());
            }
        }
        return found;
    }
}
