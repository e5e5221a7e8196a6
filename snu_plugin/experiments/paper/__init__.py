"""Rows of the published tables, run again."""
