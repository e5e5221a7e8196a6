"""Training loops for networks of spiking and other recurrent units."""

from snu_plugin.training.loop import Epoch, Robustness, train

__all__ = ["Epoch", "Robustness", "train"]
