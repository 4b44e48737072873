"""Posterion's physics room."""
