"""Data and metrics of the published tasks."""
