package org.tensorflow.lite;

/** Compile-only: the methods the app uses. Documented at https://ai.google.dev/edge/api/tflite/java/org/tensorflow/lite/Tensor */
public interface Tensor {
    int[] shape();

    int numBytes();
}
