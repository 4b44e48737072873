"""Posterion's kernels room."""
