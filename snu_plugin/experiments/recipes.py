"""How each unit is trained on each published task, and what was published."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from snu_plugin.neuron import SNUConfig
from snu_plugin.training.networks import Kind

PAPER = "Woźniak et al. 2020, bar labels as reprinted by IBM"
TOOLKIT = "IBM/neuroaikit 953a408"
SRC_CODE = "arXiv 2605.10679"
OURS = "ours"


class Published(NamedTuple):
    """A number that somebody printed."""

    value: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides a run, but data and seed."""

    unit: Kind
    sizes: tuple[int, ...]
    """Inputs, layers, outputs."""
    decay: float = 0.8
    g: str = "identity"
    """Decay and state activation of SNU and sSNU; other units ignore both."""
    optimizer: str
    """``adam`` (eps 1e-7, as in Keras) or ``sgd``."""
    lr: float
    batch: int
    epochs: int
    shuffle: bool = True
    steps: int = 0
    """Steps in which pixels fire, and the two values below: digits only."""
    gain: float = 0.0
    silent: int = 0
    grapes: bool = False
    """Whether GRAPES weighs the errors."""
    source: str = OURS
    """Whose recipe it is."""

    @property
    def config(self) -> SNUConfig | None:
        """Settings of the SNU or sSNU."""
        if self.unit not in ("snu", "ssnu"):
            return None
        return SNUConfig(decay=self.decay, g=self.g, soft=self.unit == "ssnu")  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; equal recipes give equal ones."""
        return asdict(self) | {"sizes": list(self.sizes)}


def _jsb(unit: Kind, lr: float, decay: float = 0.8, g: str = "identity") -> Recipe:
    return Recipe(
        unit=unit, sizes=(88, 150, 88), decay=decay, g=g, optimizer="adam", lr=lr, batch=1,
        epochs=100,
    )  # fmt: skip


def _quick(unit: Kind) -> Recipe:
    """Return the quick example of the toolkit, ``MNIST.ipynb``; its units are SNU and LSTM.

    One thing differs: the toolkit draws the spikes of each image once, here every epoch does.
    """
    return Recipe(
        unit=unit, sizes=(784, 250, 250, 10), decay=0.9, g="leaky_relu", optimizer="sgd", lr=0.5,
        batch=15, epochs=3, steps=20, gain=0.3, source=TOOLKIT if unit in ("snu", "lstm") else OURS,
    )  # fmt: skip


_SRC = Recipe(
    unit="src", sizes=(784, 100, 10), optimizer="adam", lr=2e-3, batch=100, epochs=3, steps=200,
    gain=0.25, silent=20,
)  # fmt: skip

_DIGITS: dict[Kind, Recipe] = {
    **{unit: _quick(unit) for unit in ("snu", "ssnu", "rnn", "lstm", "gru")},
    "src": _SRC,
}

RECIPES: dict[str, dict[Kind, Recipe]] = {
    "jsb": {
        "snu": _jsb("snu", 5e-4, decay=0.6),
        "ssnu": _jsb("ssnu", 2e-3, g="relu"),
        "rnn": _jsb("rnn", 1e-3),
        "lstm": _jsb("lstm", 1e-3),
        "gru": _jsb("gru", 1e-3),
    },
    "mnist": _DIGITS,
    "fashion": _DIGITS,
}

IBM_JSB = Recipe(
    unit="snu", sizes=(88, 150, 88), decay=0.8, g="leaky_relu", optimizer="adam", lr=0.01, batch=1,
    epochs=40, shuffle=False, source=TOOLKIT,
)  # fmt: skip
"""The toolkit's ``JSB.ipynb``, which prints training losses alone."""

PUBLISHED: dict[tuple[str, str], Published] = {
    ("jsb", "snu"): Published(8.72, PAPER),
    ("jsb", "ssnu"): Published(8.39, PAPER),
    ("jsb", "rnn"): Published(9.10, PAPER),
    ("jsb", "lstm"): Published(8.67, PAPER),
    ("jsb", "gru"): Published(8.54, PAPER),
    ("mnist", "snu"): Published(94.84, f"{TOOLKIT}, MNIST.ipynb"),
    ("mnist", "lstm"): Published(94.35, f"{TOOLKIT}, MNIST.ipynb"),
    ("mnist", "src"): Published(96.31, SRC_CODE),
}
"""What stands beside our number, for the same network and, where known, the same recipe."""

METRIC = {
    "jsb": "test NLL, nats per step, pooled",
    "mnist": "test accuracy, %",
    "fashion": "test accuracy, %",
}
