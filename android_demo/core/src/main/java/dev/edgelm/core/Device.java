package dev.edgelm.core;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/** What a {@link ProfileReport} says of the device; what is not known is empty or 0. */
public final class Device {
    /** Nothing is known. */
    public static final Device UNKNOWN = new Device("", "", "", "", 0, 0, 0, Collections.emptyList());

    private final String manufacturer;
    private final String model;
    private final String soc;
    private final String abi;
    private final int androidApi;
    private final int cores;
    private final double ramMb;
    private final List<String> features;

    /**
     * A device.
     *
     * @param manufacturer such as {@code Google}
     * @param model such as {@code Pixel 6}
     * @param soc the system on chip, such as {@code Tensor}
     * @param abi as Android names it: {@code arm64-v8a}, {@code x86_64}
     * @param androidApi API level; 0 when it is no Android device
     * @param cores CPU cores
     * @param ramMb memory, MB of 10^6 bytes
     * @param features what decides the kernels: {@code neon}, {@code dotprod}, {@code i8mm}
     */
    public Device(
            String manufacturer, String model, String soc, String abi, int androidApi, int cores, double ramMb, List<String> features) {
        this.manufacturer = manufacturer;
        this.model = model;
        this.soc = soc;
        this.abi = abi;
        this.androidApi = androidApi;
        this.cores = cores;
        this.ramMb = ramMb;
        this.features = Collections.unmodifiableList(new ArrayList<>(features));
    }

    String manufacturer() {
        return manufacturer;
    }

    String model() {
        return model;
    }

    String soc() {
        return soc;
    }

    String abi() {
        return abi;
    }

    int androidApi() {
        return androidApi;
    }

    int cores() {
        return cores;
    }

    double ramMb() {
        return ramMb;
    }

    List<String> features() {
        return features;
    }
}
