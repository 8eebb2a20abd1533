"""Compression techniques and the one training loop they share; one technique, one file."""
