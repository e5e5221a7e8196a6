"""Side-by-side timings, all candidates in one run."""

from snu_plugin.bench import neuron

__all__ = ["neuron"]
