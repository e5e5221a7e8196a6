"""All that decides a training of a published task."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from snu_plugin.experiments.published import OURS
from snu_plugin.neuron import SNUConfig
from snu_plugin.training import Convolution, Gate, Kind, Language


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides a run, but data and seed."""

    name: str = "plain"
    """What ``--recipe`` calls it."""
    unit: Kind | Literal["relu"]
    """``relu`` is no unit of a sequence: see ``snu_plugin.experiments.perceptron``."""
    sizes: tuple[int, ...]
    """Inputs, layers, outputs."""
    convolutions: tuple[Convolution, ...] = ()
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
    skip: bool = False
    """Whether layers and read-out see the input too; see ``snu_plugin.training.skipping``."""
    memory: tuple[float, float] | None = None
    """Shortest and longest time constant of a layer's units, in steps, instead of one decay."""
    language: Language | None = None
    """What text needs besides; ``sizes`` are then embedding and layers, the words come after."""
    grapes: bool = False
    """Whether GRAPES weighs the errors."""
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
