"""Posterion's report room."""
