"""Runs artifacts on ai-edge-litert or tflite-runtime: sessions, sampling."""
