"""Training loops for networks of spiking and other recurrent units."""

from snu_plugin.training.checkpoint import load_checkpoint, save_checkpoint
from snu_plugin.training.grapes import attach_grapes
from snu_plugin.training.language import (
    Language,
    LanguageModel,
    detached,
    summed_cross_entropy,
)
from snu_plugin.training.loop import Epoch, Robustness, TrainingState, train
from snu_plugin.training.networks import (
    ConvLayer,
    Dropout,
    Kind,
    UnitNetwork,
    convolutional,
    layer,
    leaky_sum,
    network,
    skipping,
    spread_decays,
    src_classifier,
)
from snu_plugin.training.online_learning import OnlineState, online
from snu_plugin.training.traces import PerUnit, Source, Traces, Weights, carry, recall

__all__ = [
    "ConvLayer",
    "Dropout",
    "Epoch",
    "Kind",
    "Language",
    "LanguageModel",
    "OnlineState",
    "PerUnit",
    "Robustness",
    "Source",
    "Traces",
    "TrainingState",
    "UnitNetwork",
    "Weights",
    "attach_grapes",
    "carry",
    "convolutional",
    "detached",
    "layer",
    "leaky_sum",
    "load_checkpoint",
    "network",
    "online",
    "recall",
    "save_checkpoint",
    "skipping",
    "spread_decays",
    "src_classifier",
    "summed_cross_entropy",
    "train",
]
