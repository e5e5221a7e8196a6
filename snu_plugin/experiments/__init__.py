"""Whole experiments: the only place that strings everything together."""
