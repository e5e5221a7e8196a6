"""What whoever writes an adapter tests it with: claims, and random networks of what it offers."""

from snu_plugin.testing.claims import CLAIMS, Claim, expected, network, spikes
from snu_plugin.testing.exchange import Case, Entry, Verdict, entry, exchanged, side_by_side
from snu_plugin.testing.random_networks import (
    Choices,
    Neuron,
    RandomNetwork,
    Runner,
    random_network,
)

__all__ = [
    "CLAIMS",
    "Case",
    "Choices",
    "Claim",
    "Entry",
    "Neuron",
    "RandomNetwork",
    "Runner",
    "Verdict",
    "entry",
    "exchanged",
    "expected",
    "network",
    "random_network",
    "side_by_side",
    "spikes",
]
