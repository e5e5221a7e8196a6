"""Training loops for networks of spiking and other recurrent units."""

from snu_plugin.training.cells import SRC, Gate, SRCConfig, SRCState, src_scan, src_step
from snu_plugin.training.checkpoint import load_checkpoint, save_checkpoint
from snu_plugin.training.language import Language, LanguageModel, detached
from snu_plugin.training.loop import Epoch, Robustness, train
from snu_plugin.training.networks import (
    Convolution,
    Kind,
    Network,
    convolutional,
    layer,
    leaky_sum,
    network,
    src_classifier,
)
from snu_plugin.training.resume import Course, Pass, run
from snu_plugin.training.skipping import Dropout, skipping, spread_decays

__all__ = [
    "SRC",
    "Convolution",
    "Course",
    "Dropout",
    "Epoch",
    "Gate",
    "Kind",
    "Language",
    "LanguageModel",
    "Network",
    "Pass",
    "Robustness",
    "SRCConfig",
    "SRCState",
    "convolutional",
    "detached",
    "layer",
    "leaky_sum",
    "load_checkpoint",
    "network",
    "run",
    "save_checkpoint",
    "skipping",
    "spread_decays",
    "src_classifier",
    "src_scan",
    "src_step",
    "train",
]
