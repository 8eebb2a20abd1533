"""From a model to the bytes of a .tflite: direct graph writers and the TFLiteConverter path."""
