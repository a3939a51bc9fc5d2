"""The language model: loading and writing it, adapters, and the two embedded models."""
