"""The numbers that were published, and where."""

from __future__ import annotations

from typing import NamedTuple

ONLINE_PAPER = "Bohnstingl et al. 2022, best of 100 epochs on the test set"
PAPER = "Woźniak et al. 2020, bar labels as reprinted by IBM"
TOOLKIT = "IBM/neuroaikit 953a408"
SRC_CODE = "arXiv 2605.10679"
WORDS = "Zaremba et al. 2014, Press and Wolf 2017"
ONLINE_CODE = "IBM/ostl 5a89c60"
GRAPES_CODE = "IBM/GRAPES d5fa3e2"
OURS = "ours"


class Published(NamedTuple):
    """A number that somebody printed."""

    value: float
    source: str


_COUNTED = f"{TOOLKIT}, MNIST_LatInh.ipynb"

_BARS = (
    ("snu", Published(98.47, PAPER)),
    ("ssnu", Published(98.50, PAPER)),
    ("rnn", Published(97.72, PAPER)),
    ("lstm", Published(97.48, PAPER)),
    ("gru", Published(96.45, PAPER)),
)

_PERPLEXITY = (("snu", Published(137.7, PAPER)), ("ssnu", Published(108.4, PAPER)))

PUBLISHED: dict[tuple[str, str, str], Published] = {
    ("jsb", "plain", "snu"): Published(8.72, PAPER),
    ("jsb", "plain", "ssnu"): Published(8.39, PAPER),
    ("jsb", "plain", "rnn"): Published(9.10, PAPER),
    ("jsb", "plain", "lstm"): Published(8.67, PAPER),
    ("jsb", "plain", "gru"): Published(8.54, PAPER),
    ("jsb", "recurrent", "ssnu"): Published(8.598543, ONLINE_PAPER),
    ("jsb", "online", "ssnu"): Published(8.598543, ONLINE_PAPER),
    ("mnist", "toolkit", "snu"): Published(94.84, f"{TOOLKIT}, MNIST.ipynb"),
    ("mnist", "toolkit", "lstm"): Published(94.35, f"{TOOLKIT}, MNIST.ipynb"),
    ("mnist", "quick", "snu"): Published(94.84, f"{TOOLKIT}, MNIST.ipynb"),
    ("mnist", "quick", "lstm"): Published(94.35, f"{TOOLKIT}, MNIST.ipynb"),
    **{("mnist", name, unit): known for name in ("deep", "distorted") for unit, known in _BARS},
    ("mnist", "conv", "snu"): Published(99.53, PAPER),
    ("mnist", "src", "src"): Published(96.31, SRC_CODE),
    ("mnist", "single", "snu"): Published(94.51, f"{_COUNTED}, 1128 hidden spikes"),
    ("mnist", "inhibited-batch", "snu"): Published(93.82, f"{_COUNTED}, 45.9 hidden spikes"),
    **{("ptb", name, unit): known for name in ("adam", "small") for unit, known in _PERPLEXITY},
    ("ptb", "small", "lstm"): Published(114.5, WORDS),
    ("ptb", "tied", "lstm"): Published(112.4, WORDS),
}
"""What stands beside our number, by task, recipe and unit: the same network where it is known."""
