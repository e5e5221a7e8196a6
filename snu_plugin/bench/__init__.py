"""Side-by-side timings, all candidates in one run."""

from snu_plugin.bench import chip, neuron

__all__ = ["chip", "neuron"]
