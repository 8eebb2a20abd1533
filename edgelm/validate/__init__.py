"""What is proven of an artifact: parity, quality, budget and preflight, each as `Check` values."""
