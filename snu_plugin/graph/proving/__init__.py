"""Whether a graph computes what its model computes: both run, step by step."""
