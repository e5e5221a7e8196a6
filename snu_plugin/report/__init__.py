"""Figures and a page that show what was done, made from plain numbers."""
