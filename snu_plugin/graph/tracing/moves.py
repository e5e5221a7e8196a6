"""Features and channels that functions of torch take elsewhere: permuted, shuffled, turned round.

Where each number comes from is told by the same functions of numbers that count the places. As soon
as that is a choice of features, or of channels, the same in every step and sequence, it is a layer
whose weights are 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from snu_plugin.graph.tracing.receiver import Applied, Receiver
from snu_plugin.graph.tracing.torch_functions import chosen
from snu_plugin.graph.tracing.traced_tensor import TracedTensor, tensors

MOVES = frozenset(
    {
        *("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "mT", "flip"),
        *("fliplr", "flipud", "rot90", "roll", "getitem", "index_select", "select", "narrow"),
        *("channel_shuffle", "native_channel_shuffle", "pixel_shuffle", "pixel_unshuffle"),
        *("flatten", "unflatten", "reshape", "view", "contiguous", "clone", "detach", "squeeze"),
        *("unsqueeze", "chunk", "split", "tensor_split", "unbind", "unsafe_chunk", "unsafe_split"),
    }
)
"""Functions that give numbers of their first argument as they are."""

LARGEST = 4096
"""Features of which a choice is a layer."""


class _Move(NamedTuple):
    """What a tensor is made of, and the place there of each of its numbers."""

    source: TracedTensor
    places: Tensor
    version: int


@dataclass
class Moves:
    """Tensors of which it is known where their numbers come from, by id."""

    receiver: Receiver
    known: dict[int, _Move] = field(default_factory=dict)

    def follow(self, f: Applied, result: Any) -> None:
        """Note where what a function gave of a value comes from; keep what is a layer as such."""
        (value,), made = f.known, list(tensors(result))
        lost = [(known := self.receiver.values.get(y)) and known.problem for y in made]
        if f.plain not in MOVES or not f.first_is(value) or not any(lost):
            return
        move = self.known.get(id(value.tensor))
        if move is None or move.version != value.tensor._version:
            apart = value.parts and value.whole != tuple(value.tensor.shape)
            if value.problem or value.late or value.start or apart:
                return
            places = torch.arange(value.tensor.numel()).reshape(value.tensor.shape)
            move = _Move(value, places, value.tensor._version)
        moved = tensors(f.func(move.places, *f.args[1:], **f.kwargs))
        for y, where, problem in zip(made, moved, lost, strict=True):
            if problem and y is not value.tensor:
                self.known[id(y)] = _Move(move.source, where, y._version)
                self._settle(y, move.source, where)

    def _settle(self, y: Tensor, source: TracedTensor, places: Tensor) -> None:
        """Keep a tensor as what a layer gives, where one does; as its source where it is that."""
        if y.shape == source.whole and torch.equal(places.flatten(), torch.arange(y.numel())):
            self.receiver.values.keep(replace(source, tensor=y, origin=None))
            return
        for lead in (1, 2) if source.lead is None else (source.lead,):
            layer = _choice(source.whole[lead:], tuple(y.shape[lead:]), lead, source.whole, places)
            if layer is None:
                continue
            flat = isinstance(layer, nn.Linear)
            shape = (*source.whole[:lead], -1) if flat else source.whole
            x = source.tensor.reshape(shape)
            self.receiver.values.keep(replace(source, tensor=x, lead=lead))
            try:
                name = self.receiver.receive("move()", layer, x, False)
            except ValueError:
                return
            self.receiver.keep_output(name, y)
            return


def _choice(
    inside: Sequence[int], out: Sequence[int], lead: int, whole: Sequence[int], places: Tensor
) -> nn.Module | None:
    """Return the layer that gives the numbers at some places of each step; ``None`` if none does.

    Args:
        inside: Shape in a step of what it takes.
        out: Shape in a step of what it gives.
        lead: How many axes of ``whole`` are batch and time.
        whole: Shape of what it takes.
        places: Where in ``whole`` each number of what it gives is.
    """
    if not inside or not out or tuple(places.shape[:lead]) != tuple(whole[:lead]):
        return None
    steps = places.reshape(prod(whole[:lead]), -1) - torch.arange(prod(whole[:lead]))[:, None] * (
        prod(inside)
    )
    chosen_ones = steps[0]
    if not torch.equal(steps, chosen_ones.expand_as(steps)):
        return None
    space = prod(inside[1:])
    if len(inside) <= 3 and tuple(out[1:]) == tuple(inside[1:]):
        rows = chosen_ones.reshape(out[0], space)
        channels = rows[:, 0] // space
        if torch.equal(rows, channels[:, None] * space + torch.arange(space)):
            return chosen(channels, inside[0], len(inside) - 1) if inside[0] <= LARGEST else None
    if len(out) == 1 and prod(inside) <= LARGEST:
        return chosen(chosen_ones, prod(inside), 0)
    return None
