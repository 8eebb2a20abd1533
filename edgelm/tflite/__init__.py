"""The .tflite file: writing, reading, quantized weights, op versions."""
