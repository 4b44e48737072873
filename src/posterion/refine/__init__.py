"""Posterion's refine room."""
