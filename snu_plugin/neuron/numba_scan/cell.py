"""The update of one step and its gradients, for many neurons at once, while code is generated."""

from __future__ import annotations

from typing import Any, NamedTuple

from snu_plugin.neuron.numba_scan import simd
from snu_plugin.neuron.numba_scan.simd import Lanes, Rows


class Cell(NamedTuple):
    """The constants of some neurons while code is generated; ``None`` is absent."""

    l: Lanes
    theta: Lanes | None
    rho: Lanes | None
    below: Lanes | None
    floor: Lanes
    soft: bool

    def activated(self, a: Lanes) -> Lanes:
        """Apply g: ``a`` above zero, ``below a`` or, below ``floor``, 0 elsewhere."""
        if self.below is None:
            return a
        return (a > 0).where(a, (self.floor > a).where(0, self.below * a))

    def back_through_g(self, gs: Lanes, s: Lanes) -> Lanes:
        """Multiply by the slope of g, known from its value: 1 above zero, ``below`` elsewhere."""
        if self.below is None:
            return gs
        below = (self.floor > -1).where(0, self.below)
        return (s <= 0).where(below * gs, gs)

    def step(self, x: Lanes, v: Lanes, y: Lanes | None = None) -> tuple[Lanes, Lanes, Lanes]:
        """Return state, output and the potential after the reset; ``y`` is the output if known."""
        s = self.activated(x + self.l * v)
        if self.theta is None:
            return s, s, s
        if self.soft:
            y = simd.sigmoid(s - self.theta) if y is None else y
            left = 1 - y
        else:
            fires = s > self.theta
            y, left = fires.where(1, s.like(0)), fires.where(0, s.like(1))
        kept = s * left
        return s, y, kept if self.rho is None else kept + self.rho * y

    def step_back(
        self,
        gy: Lanes,
        gs: Lanes | None,
        ga: Lanes,
        through: Lanes,
        slope: Lanes | None,
        s: Lanes,
        y: Lanes,
    ) -> tuple[Lanes, Lanes]:
        """Return the gradients of this step's drive and of ``s - threshold``.

        ``ga`` is that of the next step's drive, ``gs`` what the state receives besides, ``slope``
        that of h if it is not the published one.
        """
        gv = self.l * ga.relaxed()
        if self.theta is None:
            gz, total = gy.like(0), gy + gv
        else:
            from_rest = s if self.rho is None else s - self.rho
            if slope is None:
                slope = y.relaxed() * (1 - y) if self.soft else simd.sech2(s - self.theta)
            gz = (gy - through * gv * from_rest) * slope
            total = gv * (1 - y) + gz
        return self.back_through_g(total if gs is None else total + gs, s), gz


def cell(j: Any, width: int, l: Rows, theta: Rows, rho: Rows, soft: Rows, *g: Rows) -> Cell:
    below, floor = (rows.at(j, width) for rows in g)
    constants = l.at(j, width), theta.at(j, width), rho.at(j, width)
    return Cell(*constants, below, floor, not soft.absent)
