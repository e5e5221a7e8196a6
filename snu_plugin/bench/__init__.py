"""Side-by-side timings, all candidates in one run."""

from snu_plugin.bench import chip, neuron, simulators

__all__ = ["chip", "neuron", "simulators"]
