"""Posterion's inference room."""
