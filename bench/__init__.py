"""Measurements on the real parts; every figure is a ratio within one run."""
