"""Examine a set-up in under a minute instead of training: `full/train.py ... --doctor`."""
