"""Mutators of another make for the fuzzing of readers: those that other projects fuzz with.

None is needed by the tests: ``pip install pyradamsa atheris`` and ``apt install zzuf`` where they
run. ``docs/fuzzing.md`` has the commands and what came of them.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable

Spoil = Callable[[bytes, random.Random], bytes]
"""Returns a spoilt copy of bytes."""
GROWTH = 1 << 16
"""Bytes by which a mutator may lengthen a file."""


def run(name: str, seed: int, work: Callable[[Spoil], None]) -> None:
    """Call ``work`` with the mutator of a name, where that works; may end the process after it."""
    RUNNERS[name](seed, work)


def radamsa(seed: int, work: Callable[[Spoil], None]) -> None:
    """Work with radamsa 0.6: grammar, numbers, lines, lengths and bytes of what it is given."""
    from pyradamsa import Radamsa

    made = Radamsa()
    work(lambda raw, dice: made.fuzz(raw, seed=dice.getrandbits(31), max_mut=len(raw) + GROWTH))


def zzuf(seed: int, work: Callable[[Spoil], None]) -> None:
    """Work with zzuf: of all bits a share of 0.01 % to 1 % is flipped."""

    def spoilt(raw: bytes, dice: random.Random) -> bytes:
        share = 10 ** dice.uniform(-4, -2)
        told = ["zzuf", "-s", str(dice.getrandbits(31)), "-r", f"{share:.6f}"]
        return subprocess.run(told, input=raw, capture_output=True, check=True).stdout

    work(spoilt)


def libfuzzer(seed: int, work: Callable[[Spoil], None]) -> None:
    """Work with what libFuzzer changes: bits, bytes, numbers, repeats, blocks moved; up to 16."""
    import atheris

    def spoilt(raw: bytes, dice: random.Random) -> bytes:
        most = len(raw) + dice.choice([0, 0, 64, GROWTH])
        for _ in range(dice.choice([1, 1, 2, 4, 16])):
            raw = atheris.Mutate(raw, most)
        return raw

    def once(_: bytes) -> None:
        work(spoilt)
        sys.stdout.flush()
        os._exit(0)  # libFuzzer would call again

    # It mutates only inside of its own loop: all the work is one call of that.
    atheris.Setup([sys.argv[0], f"-seed={seed + 1}", "-rss_limit_mb=0", "-timeout=86400"], once)
    atheris.Fuzz()


RUNNERS: dict[str, Callable[[int, Callable[[Spoil], None]], None]] = {
    "radamsa": radamsa, "zzuf": zzuf, "libfuzzer": libfuzzer,
}  # fmt: skip
