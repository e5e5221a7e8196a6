"""How each unit is trained on each published task."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from snu_plugin.experiments.paper.published import GRAPES_CODE, ONLINE_CODE, OURS, TOOLKIT, WORDS
from snu_plugin.neuron import Gate, SNUConfig
from snu_plugin.training import ConvLayer, Kind, Language


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides a run, but data and seed."""

    name: str = "plain"
    """What ``--recipe`` calls it."""
    unit: Kind | Literal["relu"]
    """``relu`` is no unit of a sequence: see ``jobs.PerceptronJob``."""
    sizes: tuple[int, ...]
    """Inputs, layers, outputs."""
    convolutions: tuple[ConvLayer, ...] = ()
    """Layers between the image and the dense ones; SNU and sSNU only."""
    decay: float = 0.8
    g: str = "identity"
    threshold: float = 1.0
    """Decay, state activation and first threshold of SNU and sSNU; other units ignore them."""
    optimizer: str
    """``adam`` or ``rmsprop`` (both with eps 1e-7, as in Keras), or ``sgd``."""
    lr: float
    batch: int
    epochs: int
    schedule: Literal["constant", "cosine", "one_cycle", "halving"] = "constant"
    """``cosine``: from ``lr`` at the first batch to 0 after the last (Loshchilov, Hutter 2017).
    ``one_cycle``: from 0 to ``lr`` in the first tenth and back (Smith, Topin 2019).
    ``halving``: ``lr`` for five epochs, then half of the last (Press and Wolf 2017)."""
    shuffle: bool = True
    steps: int = 0
    """Steps in which pixels fire; this and all below down to ``elastic``: digits only."""
    test_steps: int = 0
    """Steps on the test set, or ``steps`` where held-out images do better with these; 0: ``steps``,
    as in training and validation."""
    gain: float = 0.0
    """Probability that a white pixel fires in a step."""
    silent: int = 0
    """Steps before them without any spike."""
    gate: Gate = "prev"
    """What slows the slow state of SRC; see ``SRCConfig``."""
    learn_readout: bool = False
    """Whether the read-out of SRC, fixed in the released model, is trained on."""
    loss: Literal["mse", "cross_entropy"] = "mse"
    """Of the mean output against 1 and 0, or of the outputs summed over time."""
    temperature: float = 1.0
    """What the summed outputs are divided by before their softmax (Hinton, Vinyals, Dean 2015);
    digits and events with ``cross_entropy`` only. Sums over hundreds of steps are so large that the
    softmax is sure of one class, and teaches by its errors alone."""
    held_out: int = 0
    """Last images of train that choose the epoch; 0: the last epoch is taken."""
    elastic: tuple[float, float] | None = None
    """Size and smoothness of the distortion of training images, in pixels; see
    ``snu_plugin.tasks.digits.elastic``."""
    mirrored: bool = False
    """Whether every training image is mirrored, left to right, as often as not; digits only."""
    inhibition: Literal["sample", "batch"] | None = None
    """Lateral inhibition in the hidden layers; see ``SNUConfig``."""
    dropout: float = 0.0
    """Share of values dropped after the hidden layers; ``relu`` units and ``skip`` only."""
    recurrent: bool = False
    """Whether units see the last outputs of their layer; chorales only, text says it itself."""
    summed: bool = False
    """Whether the loss is a sum over steps and keys instead of a mean; chorales only."""
    online: int = 0
    """Steps of a segment of online learning; 0: back-propagation through time. Chorales only."""
    skip: bool = False
    """Whether layers and read-out see the input too; see ``snu_plugin.training.Skipping``."""
    memory: tuple[float, float] | None = None
    """Shortest and longest time constant of a layer's units, in steps, instead of one decay."""
    language: Language | None = None
    """What text needs besides; ``sizes`` are then embedding and layers, the words come after."""
    grapes: bool = False
    """Whether GRAPES weighs the errors."""
    hardware_aware: bool = False
    """Whether it is trained as chips run it; see ``training_job``."""
    source: str = OURS
    """Whose recipe it is."""

    @property
    def kind(self) -> Kind:
        """The unit, where it is one of a sequence."""
        if self.unit == "relu":
            raise ValueError(f"the recipe {self.name} is for images without time")
        return self.unit

    @property
    def config(self) -> SNUConfig | None:
        """Settings of the SNU or sSNU."""
        if self.unit not in ("snu", "ssnu"):
            return None
        soft = self.unit == "ssnu"
        return SNUConfig(decay=self.decay, g=self.g, threshold=self.threshold, soft=soft)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; equal recipes give equal ones."""
        plain = {"sizes": list(self.sizes), "convolutions": [list(c) for c in self.convolutions]}
        pairs = {"elastic": self.elastic, "memory": self.memory}
        return asdict(self) | plain | {k: v and list(v) for k, v in pairs.items()}


def _jsb(unit: Kind, lr: float, decay: float = 0.8, g: str = "identity") -> Recipe:
    return Recipe(
        unit=unit, sizes=(88, 150, 88), decay=decay, g=g, optimizer="adam", lr=lr, batch=1,
        epochs=100,
    )  # fmt: skip


def _toolkit(unit: Kind) -> Recipe:
    """Return the quick example of the toolkit, ``MNIST.ipynb``; its units are SNU and LSTM.

    One thing differs: the toolkit draws the spikes of each image once, here every epoch does.
    """
    return Recipe(
        name="toolkit", unit=unit, sizes=(784, 250, 250, 10), decay=0.9, g="leaky_relu",
        optimizer="sgd", lr=0.5, batch=15, epochs=3, steps=20, gain=0.3,
        source=TOOLKIT if unit in ("snu", "lstm") else OURS,
    )  # fmt: skip


def _quick(unit: Kind) -> Recipe:
    """Return the network and the three epochs of the toolkit's example, trained our way."""
    return Recipe(
        name="quick", unit=unit, sizes=(784, 250, 250, 10), decay=0.8, g="leaky_relu",
        optimizer="adam", lr=2e-3, schedule="cosine", batch=100, epochs=3, steps=10,
        test_steps=100, gain=1.0, loss="cross_entropy",
    )  # fmt: skip


def _deep(unit: Kind, lr: float = 2e-3, g: str = "identity", epochs: int = 15) -> Recipe:
    """Return the feed-forward networks of the paper: SNU with 7 layers, the others with 4.

    Widths, steps and training are ours; the paper does not print its own. Learning rate and g of
    SNU and sSNU were chosen on held-out images, those of the other units were not tuned.
    """
    hidden = (256,) * (6 if unit == "snu" else 3)
    return Recipe(
        name="deep", unit=unit, sizes=(784, *hidden, 10), decay=0.8, g=g, optimizer="adam", lr=lr,
        schedule="cosine", batch=100, epochs=epochs, steps=8, test_steps=300, gain=0.5,
        loss="cross_entropy", held_out=5000,
    )  # fmt: skip


def _distorted(deep: Recipe) -> Recipe:
    """Return ``deep`` with elastic distortion, half as large as Simard's for his wider networks.

    sSNU takes more passes: after 24 it took 1.07 % of the held-out images for another, the mean of
    three seeds, after 15 1.26 %.
    """
    epochs = 24 if deep.unit == "ssnu" else deep.epochs
    return replace(deep, name="distorted", elastic=(17.0, 4.0), epochs=epochs)


def _conv(unit: Kind) -> Recipe:
    """Return the convolutional network with elastic distortion.

    Strided convolutions and the distortion after Simard, Steinkraus, Platt 2003, who draw such a
    network for the purpose; the paper prints the 300 steps of the test but not its network.
    """
    return Recipe(
        name="conv", unit=unit, sizes=(784, 128, 10),
        convolutions=(ConvLayer(16, 5, 2), ConvLayer(48, 5, 2)), decay=0.8,
        g="leaky_relu" if unit == "snu" else "identity", optimizer="adam", lr=4e-3,
        schedule="cosine", batch=100, epochs=15, steps=6, test_steps=300, gain=1.0,
        loss="cross_entropy", held_out=5000, elastic=(25.0, 4.0),
    )  # fmt: skip


def _wide(conv: Recipe) -> Recipe:
    """Return ``conv`` with about four times the weights and a third more passes."""
    convolutions = (ConvLayer(32, 5, 2), ConvLayer(64, 5, 2))
    return replace(
        conv, name="conv-wide", sizes=(784, 256, 10), convolutions=convolutions, epochs=20
    )


_SRC = Recipe(
    name="src", unit="src", sizes=(784, 100, 10), optimizer="adam", lr=5e-3, schedule="cosine",
    batch=100, epochs=15, steps=200, gain=0.25, silent=20, gate="cur", learn_readout=True,
    loss="cross_entropy", temperature=10.0,
)  # fmt: skip
"""Coding and network of the released model; training, gate and trained read-out are ours, chosen on
the last images of train. There a gradient not stopped at the potentials hardly trained at all, and
of temperatures 1, 10 and 33 the second was the best: 83.0, 86.0 and 85.0 % of clothes after four
passes over 20,000."""


def _inhibited(inhibition: Literal["sample", "batch"] | None) -> Recipe:
    """Return the toolkit's ``MNIST_LatInh.ipynb``; there samples of a batch inhibit each other."""
    return Recipe(
        name="single" if inhibition is None else f"inhibited-{inhibition}", unit="snu",
        sizes=(784, 100, 10), decay=0.9, g="leaky_relu", optimizer="rmsprop", lr=0.1, batch=15,
        epochs=5, steps=20, gain=0.3, inhibition=inhibition, source=TOOLKIT,
    )  # fmt: skip


def _events(unit: Kind) -> Recipe:
    """Return a network for recordings of 34 x 34 pixels and two polarities in 30 frames; ours.

    Passes, schedule and the rate of sSNU were chosen on two folds of the subset's 900 training
    recordings, where those of SRC were better than one other choice; the others were not tuned.
    """
    return Recipe(
        unit=unit, sizes=(2 * 34 * 34, 100, 10), decay=0.9, optimizer="adam",
        lr=3e-3 if unit == "ssnu" else 2e-3, schedule="cosine", batch=50, epochs=30, steps=30,
        gate="cur", learn_readout=unit == "src", loss="cross_entropy",
    )  # fmt: skip


_PERCEPTRON = Recipe(
    name="perceptron", unit="relu", sizes=(784, 256, 256, 10), optimizer="sgd", lr=0.1, batch=64,
    epochs=200, dropout=0.1, loss="cross_entropy", source=GRAPES_CODE,
)  # fmt: skip
"""The public run of IBM/GRAPES, but for what is wrong in its code
(docs/neurons.md#grapes-public-code)."""


def _small(unit: Kind, name: str = "small", *, tied: bool = False) -> Recipe:
    """Return the small LSTM of Zaremba et al. 2014, or other units in its place and its training.

    All of it is published for the LSTM (ofirpress/UsingTheOutputEmbedding
    ``ptb_word_lm_WT.py``); the set-up of the SNU is not.
    """
    soft = unit == "ssnu"
    return Recipe(
        name=name, unit=unit, sizes=(200, 200, 200), optimizer="sgd", lr=1.0, schedule="halving",
        batch=20, epochs=13, language=Language(recurrent=soft, tied=soft or tied),
        source=WORDS if unit == "lstm" else OURS,
    )  # fmt: skip


def _words(unit: Literal["snu", "ssnu"]) -> Recipe:
    """Return the small network with its windows, batches and epochs, trained our way.

    Sizes and parameters are the published ones. Settings of SNU and sSNU were chosen by validation
    in few passes of free texts of 10,000 and 2,000 words, some together; the dropout is between
    those that did well there, for more passes of a longer text.
    """
    small = _small(unit)
    words = small.language or Language()
    adam: dict[str, Any] = {"name": "adam", "optimizer": "adam", "source": OURS}
    if unit == "snu":
        words = replace(words, init=0.15, embedding=0.5, center=0.3, dropout=0.2)
        own: dict[str, Any] = {"memory": (1.0, 4.0), "threshold": 0.5, "lr": 4e-3}
        return replace(small, **adam, **own, schedule="one_cycle", language=words)
    words = replace(words, init=0.3, embedding=0.1, center=0.15, gain=3.0, dropout=0.2)
    own = {"decay": 0.4, "threshold": 2.0, "lr": 4e-3}
    return replace(small, **adam, **own, schedule="cosine", language=words)


_COMPARED: tuple[Kind, ...] = ("snu", "ssnu", "rnn", "lstm", "gru")

_DEEP: dict[str, Recipe] = {
    "snu": _deep("snu", g="leaky_relu", epochs=24),
    "ssnu": _deep("ssnu", 8e-3),
    "rnn": _deep("rnn"),
    "lstm": _deep("lstm"),
    "gru": _deep("gru"),
}

_DIGITS: dict[str, dict[str, Recipe]] = {
    "toolkit": {unit: _toolkit(unit) for unit in _COMPARED},
    "src": {"src": _SRC},
    "src-deep": {"src": replace(_SRC, name="src-deep", sizes=(784, 100, 100, 10))},
    "src-distorted": {"src": replace(_SRC, name="src-distorted", epochs=25, elastic=(17.0, 4.0))},
    "quick": {unit: _quick(unit) for unit in _COMPARED},
    "deep": _DEEP,
    "distorted": {unit: _distorted(deep) for unit, deep in _DEEP.items()},
    "conv": {"snu": _conv("snu"), "ssnu": _conv("ssnu")},
    "conv-wide": {"snu": _wide(_conv("snu"))},
    **{r.name: {"snu": r} for r in map(_inhibited, (None, "sample", "batch"))},
    "perceptron": {"relu": _PERCEPTRON},
}

_COLD_SRC = replace(_SRC, temperature=1.0)
_BRIEF_SRC = replace(
    _COLD_SRC, name="src-brief", lr=2e-3, epochs=20, steps=24, gain=1.0, silent=0, held_out=5000,
    mirrored=True,
)  # fmt: skip

_CLOTHES: dict[str, dict[str, Recipe]] = {
    "mirrored": {
        "ssnu": replace(_DEEP["ssnu"], name="mirrored", gain=1.0, mirrored=True),
        "src": replace(_COLD_SRC, name="mirrored", epochs=20, mirrored=True),
    },
    "long": {"ssnu": replace(_DEEP["ssnu"], name="long", epochs=24, steps=16, mirrored=True)},
    "src-brief": {"src": _BRIEF_SRC},
    "src-large": {
        "src": replace(
            _COLD_SRC, name="src-large", sizes=(784, 256, 10), lr=2.5e-3, epochs=12, held_out=5000
        )
    },
    "src-wide": {
        "src": replace(_BRIEF_SRC, name="src-wide", sizes=(784, 256, 10), epochs=12, mirrored=False)
    },
    "conv-mirrored": {
        unit: replace(conv, name="conv-mirrored", elastic=None, mirrored=True)
        for unit, conv in _DIGITS["conv"].items()
    },
}
"""What was tried on Fashion-MNIST besides the recipes of the digits: clothes may be seen in a
mirror, digits may not, and have grey values, which need more spikes. All ours.

Twelve passes of ``long`` in 8 steps came to 88.7 % of the held-out images. Nothing was better by
more than their scatter: a gain of 1 88.5, first weights 3 and 6 times as large with it 89.2 and
88.8, and these with elastic distortion (10, 4) 89.0 after 30 passes. The convolutional sSNU learns
slowly: larger first weights helped it in the first passes only, a higher rate did not.
"""

IBM_JSB = Recipe(
    name="toolkit", unit="snu", sizes=(88, 150, 88), decay=0.8, g="leaky_relu", optimizer="adam",
    lr=0.01, batch=1, epochs=40, shuffle=False, source=TOOLKIT,
)  # fmt: skip
"""The toolkit's ``JSB.ipynb``, which prints training losses alone."""

_SKIP = Recipe(
    name="skip", unit="ssnu", sizes=(88, 150, 88), g="relu", memory=(1.26, 50.0), skip=True,
    dropout=0.1, optimizer="adam", lr=1e-2, schedule="one_cycle", batch=1, epochs=40,
)  # fmt: skip
"""The published layer, its units of many time constants, with a read-out that sees the last chord.
"""

_DEEP_JSB = replace(_SKIP, name="deep", sizes=(88, 200, 200, 200, 88), dropout=0.3)
"""Three layers; width, depth, dropout and rate were chosen on the validation pieces."""

_RECURRENT = Recipe(
    name="recurrent", unit="ssnu", sizes=(88, 150, 88), decay=0.4, recurrent=True, summed=True,
    optimizer="sgd", lr=5e-4, batch=1, epochs=100, shuffle=False, source=ONLINE_CODE,
)  # fmt: skip
"""``OSTL_Tutorial_JSB_stripped.ipynb``: the network on which OSTL and BPTT were compared."""

_ONLINE = replace(_RECURRENT, name="online", online=32)
"""The same by OSTL. Segments of 32 steps give the gradient that those of one step do, and take a
thirtieth of their time."""

RECIPES: dict[str, dict[str, dict[str, Recipe]]] = {
    "jsb": {
        "plain": {
            "snu": _jsb("snu", 5e-4, decay=0.6),
            "ssnu": _jsb("ssnu", 2e-3, g="relu"),
            "rnn": _jsb("rnn", 1e-3),
            "lstm": _jsb("lstm", 1e-3),
            "gru": _jsb("gru", 1e-3),
        },
        "skip": {"ssnu": _SKIP},
        "deep": {"ssnu": _DEEP_JSB},
        "toolkit": {"snu": IBM_JSB},
        "recurrent": {"ssnu": _RECURRENT},
        "online": {"ssnu": _ONLINE},
    },
    "mnist": _DIGITS,
    "fashion": _DIGITS | _CLOTHES,
    "nmnist": {
        "plain": {unit: _events(unit) for unit in (*_COMPARED, "src")},
        "src-deep": {
            "src": replace(_events("src"), name="src-deep", sizes=(2 * 34 * 34, 100, 100, 10))
        },
    },
    "ptb": {
        "adam": {"snu": _words("snu"), "ssnu": _words("ssnu")},
        "small": {unit: _small(unit) for unit in _COMPARED},
        "tied": {"lstm": _small("lstm", "tied", tied=True)},
    },
}
"""By task, name and unit; a unit's first recipe is its default."""


METRIC = {
    "jsb": "test NLL, nats per step, pooled",
    "mnist": "test accuracy, %",
    "fashion": "test accuracy, %",
    "nmnist": "test accuracy, %",
    "ptb": "test perplexity",
}
