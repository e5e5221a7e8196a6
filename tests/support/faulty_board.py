"""A board in another process that goes wrong on purpose, when it is told to."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from snu_plugin.hil import serve
from snu_plugin.hil.messages import make_keys, pack, unpack


class FaultyChip(serve.KeptChip):
    """A chip whose answers come late, wrong or never, or whose process kills itself."""

    def __init__(
        self,
        path: Path,
        *,
        delay_s: float = 0.0,
        dies: Mapping[int, str] | None = None,
        silent_from: int | None = None,
        wrong_shape: int | None = None,
    ) -> None:
        """Take what goes wrong.

        Args:
            path: The chip's file.
            delay_s: Seconds before every answer.
            dies: Operations, by number, in which the process kills itself, and when: ``before``
                anything is on disk, ``between`` the journal and the chip, or ``after`` both, with
                no answer sent.
            silent_from: The operation from which on nothing is answered any more.
            wrong_shape: The operation in whose answer every tensor is one longer.
        """
        self._delay_s, self._dies = delay_s, dies or {}
        self._silent_from, self._wrong_shape = silent_from, wrong_shape
        super().__init__(path)

    def _die(self, number: int, moment: str) -> None:
        if self._dies.get(number) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def answer(self, question: str, at: int | None) -> Any:
        time.sleep(self._delay_s)
        return super().answer(question, at)

    def do(self, number: int, operation: str, given: Sequence[bytes]) -> list[bytes]:
        new = number == self.done + 1
        answer = super().do(number, operation, given)
        if new:
            self._die(number, "after")
        time.sleep(self._delay_s)
        if self._silent_from is not None and number >= self._silent_from:
            signal.pause()
        return pack(_longer(unpack(answer))) if number == self._wrong_shape else answer

    def _perform(self, operation: str, message: Sequence[bytes]) -> dict[str, Any]:
        found = super()._perform(operation, message)
        self._die(self.done + 1, "before")
        return found

    def _note(self, number: int, request: str, before: str, answer: list[bytes]) -> None:
        super()._note(number, request, before, answer)
        self._die(number, "between")


def _longer(tree: Any) -> Any:
    """Return an answer whose tensors have one row more."""
    if isinstance(tree, torch.Tensor) and tree.dim():
        return torch.cat([tree, tree[:1]])
    return {n: _longer(one) for n, one in tree.items()} if isinstance(tree, dict) else tree


def serve_faulty(chip: Path, key: Path, port: int, faults: dict[str, Any]) -> None:
    """Serve a chip as ``serve`` does, and have happen what ``faults`` says, as JSON holds it."""
    faults["dies"] = {int(number): when for number, when in faults.get("dies", {}).items()}
    serve.KeptChip = partial(FaultyChip, **faults)  # type: ignore[assignment, misc]
    serve.serve(chip, make_keys(key), port, ready=lambda address: print(address, flush=True))
