"""Training loops for networks of spiking and other recurrent units."""

from snu_plugin.training.cells import SRC, SRCConfig, SRCState, src_scan, src_step
from snu_plugin.training.loop import Epoch, Robustness, train
from snu_plugin.training.networks import Network, network

__all__ = [
    "SRC",
    "Epoch",
    "Network",
    "Robustness",
    "SRCConfig",
    "SRCState",
    "network",
    "src_scan",
    "src_step",
    "train",
]
