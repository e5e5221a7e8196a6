"""A network of units that predicts the next word of a text."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Generator, Tensor, nn

from snu_plugin.neuron import SNUConfig
from snu_plugin.training.networks import Dropout, Kind, UnitNetwork, Weighted, layer


@dataclass(frozen=True, kw_only=True)
class Language:
    """What a language model and its training have besides units."""

    recurrent: bool = False
    """SNU and sSNU: whether units see the last outputs of their layer."""
    tied: bool = False
    """Whether the output matrix is the embedding (Press and Wolf 2017); its bias stays its own."""
    dropout: float = 0.0
    """Share of values dropped in training between layers, embedding and softmax included, never
    over time (Zaremba et al. 2014); in [0, 1)."""
    init: float = 0.1
    """Weights are uniform in ± this."""
    embedding: float | None = None
    """The embedding is uniform in ± this; ``None``: as all weights."""
    center: float = 0.0
    gain: float = 1.0
    """What the next layer and the read-out see of an output y: ``gain * (y - center)``. Outputs
    between 0 and 1 with one large mean and small differences teach slowly (LeCun et al. 1998)."""
    window: int = 20
    """Words after which the gradient through time is cut."""
    clip: float = 5.0
    """Largest norm of the gradient of all parameters together."""

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must lie in [0, 1)")
        if not (0 < self.gain < math.inf and math.isfinite(self.center)):
            raise ValueError(
                f"gain is {self.gain} and center {self.center}; give finite ones, the gain above 0"
            )


class LanguageModel(nn.Module):
    """Embedding, layers of units, softmax: ``logits, state = model(words, state=None)``.

    Words are ``(T, B)`` int64, logits ``(T, B, vocabulary)``; the state is a tuple of the layers'
    states, which segments of a text hand on. Weights are uniform, biases zero, thresholds as
    ``config`` says (Zaremba et al. 2014, tensorflow/models ``ptb_word_lm.py``).

    Args:
        kind: Unit, all but ``src``.
        vocabulary: Words.
        sizes: Length of an embedding, then units of every layer.
        config: Settings of SNU or sSNU.
        settings: All else; ``None`` is ``Language()``.
        generator: Source of the weights, then of what is dropped.

    Raises:
        ValueError: For sizes that cannot be, or cannot be tied.

    >>> model = LanguageModel("snu", 10_000, (200, 200, 200), generator=Generator())
    >>> sum(p.numel() for p in model.parameters())
    4090400
    """

    def __init__(
        self,
        kind: Kind,
        vocabulary: int,
        sizes: Sequence[int],
        config: SNUConfig | None = None,
        settings: Language | None = None,
        *,
        generator: Generator,
    ) -> None:
        super().__init__()
        self.settings = settings = settings or Language()
        self._drop = Dropout(settings.dropout, generator)
        if len(sizes) < 2 or min(*sizes, vocabulary) < 1:
            raise ValueError(f"sizes are {tuple(sizes)}; give embedding and layers, all positive")
        if settings.tied and sizes[0] != sizes[-1]:
            raise ValueError(f"sizes are {tuple(sizes)}; tied, the last must equal the first")
        self.embedding = nn.Embedding(vocabulary, sizes[0])
        self.layers = nn.ModuleList(
            layer(kind, a, b, config, recurrent=settings.recurrent, generator=generator)
            for a, b in itertools.pairwise(sizes)
        )
        self.readout = nn.Linear(sizes[-1], vocabulary)
        if settings.tied:
            self.readout.weight = self.embedding.weight
        for weights in self.parameters():
            if weights.dim() > 1:
                nn.init.uniform_(weights, -settings.init, settings.init, generator=generator)
        if (reach := settings.embedding) is not None:
            nn.init.uniform_(self.embedding.weight, -reach, reach, generator=generator)
        nn.init.zeros_(self.readout.bias)
        if kind in ("rnn", "lstm"):
            for each in self.layers:  # torch adds two biases where one is meant
                each.get_parameter("bias_hh_l0").requires_grad_(False)

    def forward(
        self, words: Tensor, state: Sequence[Any] | None = None
    ) -> tuple[Tensor, tuple[Any, ...]]:
        """Run a stretch of text from ``state`` (``None``: zero)."""
        logits, _, last = self.through(words, state)
        return logits, last

    def through(
        self, words: Tensor, state: Sequence[Any] | None = None
    ) -> tuple[Tensor, list[Tensor], tuple[Any, ...]]:
        """Return the logits, the outputs of every layer of units as they leave it, the state."""
        x = self._drop(self.embedding(words))
        states = (None,) * len(self.layers) if state is None else state
        outputs, last = [], []
        for each, before in zip(self.layers, states, strict=True):
            y, after = each(x, before)
            x = self._drop(self._seen(y))
            outputs.append(y)
            last.append(after)
        return self.readout(x), outputs, tuple(last)

    def without_embedding(self) -> UnitNetwork:
        """Return a copy of all behind the embedding: ``(T, B, embedding)`` to logits.

        Nothing is dropped; ``gain`` and ``center`` are in the weights and biases.

        Raises:
            ValueError: If the units are not SNU or sSNU.
        """
        layers = [copy.deepcopy(each) for each in self.layers if isinstance(each, Weighted)]
        if len(layers) < len(self.layers):
            raise ValueError("only networks of snu and ssnu run apart from their embedding")
        readout = copy.deepcopy(self.readout)
        for linear in [*(each.weights for each in layers[1:]), readout]:
            _fold(linear, self.settings.center, self.settings.gain)
        return UnitNetwork(layers, readout)

    def _seen(self, y: Tensor) -> Tensor:
        center, gain = self.settings.center, self.settings.gain
        return y if (center, gain) == (0, 1) else gain * (y - center)


def _fold(linear: nn.Linear | nn.Conv2d, center: float, gain: float) -> None:
    """Have a layer make of y what it made of ``gain * (y - center)``; it may get a bias."""
    if (center, gain) == (0, 1):
        return
    old = linear.weight.detach()
    weight = gain * old.double()
    bias = -center * weight.sum(1)
    if linear.bias is not None:
        bias += linear.bias.detach()
    linear.weight, linear.bias = nn.Parameter(weight.to(old)), nn.Parameter(bias.to(old))


def detached(state: Any) -> Any:
    """Return a state, however nested, that no gradient passes."""
    if isinstance(state, Tensor):
        return state.detach()
    parts = [detached(part) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


def summed_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of ``(T, B, vocabulary)`` summed over all words, nats."""
    return F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum")
