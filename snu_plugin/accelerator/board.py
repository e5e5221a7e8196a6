"""What a host may ask of a chip: the operations a real board would offer too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from snu_plugin.accelerator.energy import Spent, Writing
from snu_plugin.accelerator.inference import Trace
from snu_plugin.accelerator.program import Program


class Board(Protocol):
    """A chip with a network on it; ``Accelerator`` is the modelled one.

    Nothing here shows a true conductance: weights are known only as a noisy reading.
    """

    @property
    def layout(self) -> Program:
        """The program the chip was made for."""

    @property
    def pulses(self) -> int:
        """SET and RESET pulses so far."""

    @property
    def clock_s(self) -> float:
        """Seconds on the chip's clock."""

    @property
    def registers(self) -> Mapping[str, Tensor]:
        """Digital values by name: ``<node>.gain``, ``<node>.bias``, ``<node>.threshold``.

        ``<node>.tile_gain`` besides where partial sums of several rows of tiles are added;
        ``<node>.adapter_in`` (rank, in) and ``<node>.adapter_out`` (out, rank) of an adapter.
        """

    @property
    def spent(self) -> Mapping[str, Spent]:
        """What was spent so far, by operation: energy, time and wear by what they were for."""

    def set_registers(self, values: Mapping[str, Tensor]) -> None:
        """Replace digital values; shapes must stay."""

    def set_adapter(self, node: str, rank: int) -> None:
        """Put a digital low-rank adapter of zeros beside a node; rank 0 takes it away."""

    def wait(self, seconds: float) -> None:
        """Let time pass."""

    def run(self, x: Any, *, record: bool = False, carry: bool = False) -> tuple[Any, Trace]:
        """Run sequences ``(T, B, ...)``; with ``carry`` go on where the last run left neurons."""

    def read_weights(self) -> dict[str, Tensor]:
        """Read the weights back, once, with noise, in the graph's units and shapes."""

    def read_conductances(self) -> dict[str, Tensor]:
        """Read every device, once, with noise: ``(2, out, in)``, G+ and G-, µS."""

    def pulse(self, counts: Mapping[str, Tensor]) -> None:
        """Apply SET pulses: positive counts to G+, negative to G-; shaped as weights."""

    def reset(self, pairs: Mapping[str, Tensor]) -> None:
        """RESET both devices of the pairs where a mask, shaped as the weights, is true."""

    def write(self, targets: Mapping[str, Any], where: Mapping[str, Any] | None = None) -> Writing:
        """Write weights again in a closed loop, all or those where a mask is true; say the cost."""

    def calibrate(self) -> None:
        """Fit the digital gains so that the products match the remembered weights again."""

    def remember(self, reads: int = 16) -> None:
        """Take what ``reads`` readings show on average as the weights to calibrate to."""
