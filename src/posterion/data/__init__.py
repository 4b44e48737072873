"""Posterion's data room."""
