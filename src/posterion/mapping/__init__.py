"""Posterion's mapping room."""
