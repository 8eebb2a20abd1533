"""Sizes that the tiny torch models have in common."""

VOCAB, WIDTH, POSITIONS, STEPS = 29, 16, 48, 32
HEADS, HEAD_DIM = 4, 4
