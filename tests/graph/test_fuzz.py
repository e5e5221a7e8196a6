"""Mutated files given to the reader: no crash, no hang, little memory, one line of refusal.

``python tests/graph/test_fuzz.py --minutes 10 --seed 0`` prints the record in docs/fuzzing.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import selectors
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest

from snu_plugin.graph import SNU, read, write

PUBLIC = Path(__file__).parents[3] / "shared" / "reference" / "nir_graphs"
LIMIT_S = 20.0
"""A file that takes longer, of processor time, has hung."""
WAITING = 30
"""Times that long it may wait for a processor."""
LIMIT_MIB = 1024

WORKER = """
import json, resource, sys, time, warnings
warnings.simplefilter("ignore")
from snu_plugin.graph import check, discretise, read
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
def peak_kib():
    # ru_maxrss of a fresh process starts at its parent's peak; the kernel's own mark does not.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
print(json.dumps({"told": "ready"}), flush=True)
for line in sys.stdin:
    start = time.perf_counter()
    try:
        graph = read(line.strip())
        check(graph)
        told = "read"
        try:
            discretise(graph)
        except ValueError as error:
            told = "read, has no one meaning" if "\\n" not in str(error) else "ESCAPED lines"
    except ValueError as error:
        told = "refused" if "\\n" not in str(error) and str(error) else "ESCAPED lines"
    except Exception as error:
        told = f"ESCAPED {type(error).__name__}: {str(error)[:200]}"
    said = {"told": told, "s": time.perf_counter() - start, "kib": peak_kib()}
    print(json.dumps(said), flush=True)
"""


def corpus(folder: Path) -> list[Path]:
    """Write a file with every kind of node, a nested one, and copy the public ones."""
    full = {"v_leak": np.zeros(3), "r": np.ones(3)}
    fires = {"v_threshold": np.ones(3), "v_reset": np.zeros(3)}
    chain: list[nir.NIRNode] = [
        nir.Affine(np.ones((3, 4)), np.zeros(3)), nir.LIF(tau=np.full(3, 2.0), **full, **fires),
        nir.Linear(np.ones((3, 3))), nir.IF(r=np.ones(3), **fires), nir.I(r=np.ones(3)),
        nir.LI(tau=np.full(3, 2.0), **full), nir.Scale(np.ones(3)), nir.Threshold(np.ones(3)),
        nir.Delay(np.ones(3)),
        nir.CubaLIF(tau_syn=np.full(3, 2.0), tau_mem=np.full(3, 3.0), **full, **fires),
        nir.CubaLI(tau_syn=np.full(3, 2.0), tau_mem=np.full(3, 3.0), **full),
        SNU(decay=np.full(3, 0.5), threshold=np.ones(3), g="relu"),
    ]  # fmt: skip
    flat = nir.Flatten({"input": np.array([2, 3, 3])}, 0, -1)
    images: list[nir.NIRNode] = [
        nir.Conv2d((6, 6), np.ones((2, 1, 3, 3)), 1, 1, 1, 1, np.zeros(2)),
        nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        nir.AvgPool2d(np.array([1, 1]), np.array([1, 1]), np.array([0, 0])), flat,
    ]  # fmt: skip
    for name, nodes, shape in (("chain", chain, 4), ("images", images, (1, 6, 6))):
        write(folder / f"{name}.nir", joined(nodes, shape))
    inner = joined(chain[:4], 4)
    write(folder / "nested.nir", joined([inner, nir.Scale(np.ones(3))], 4))
    loop = joined(chain[:3], 4)
    loop.edges += [("n2", "n1")]
    write(folder / "loop.nir", loop)
    for path in sorted(PUBLIC.glob("*.nir")):
        (folder / path.name).write_bytes(path.read_bytes())
    return sorted(folder.glob("*.nir"))


def joined(nodes: list[nir.NIRNode], shape: Any) -> nir.NIRGraph:
    names = ["input", *(f"n{i}" for i in range(len(nodes))), "output"]
    ends = nir.Input({"input": np.atleast_1d(shape)}), nir.Output({"output": None})
    every = dict(zip(names, (ends[0], *nodes, ends[1]), strict=True))
    return nir.NIRGraph(every, list(pairwise(names)), {}, type_check=False)


Spoil = Callable[[bytes, random.Random], bytes]
"""Returns a spoilt copy of bytes."""


def mutated(data: bytes, dice: random.Random, path: Path, other: Spoil | None = None) -> str:
    """Write a spoilt copy of a file, by our own mutators or another; returns what was done."""
    if other is not None:
        path.write_bytes(other(data, dice))
        return "foreign"
    how = dice.choice([*BYTES, *BYTES, "values"])
    if how == "values":
        path.write_bytes(data)
        with h5py.File(path, "r+") as file:
            for _ in range(dice.randint(1, 3)):
                spoil(file, dice)
        return how
    raw = bytearray(data)
    for _ in range(dice.choice([1, 1, 2, 4, 16])):
        BYTES[how](raw, dice)
    path.write_bytes(bytes(raw))
    return how


def flip(raw: bytearray, dice: random.Random) -> None:
    raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)


def extreme(raw: bytearray, dice: random.Random) -> None:
    """Overwrite up to 8 bytes by a number that sizes go wrong with."""
    width, at = dice.choice([1, 2, 4, 8]), dice.randrange(len(raw))
    number = dice.choice([0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, len(raw), at])
    raw[at : at + width] = (number % 2 ** (8 * width)).to_bytes(width, "little")


def cut(raw: bytearray, dice: random.Random) -> None:
    if len(raw) > 64:
        at = dice.randrange(len(raw))
        del raw[at : at + dice.choice([1, 8, 64, len(raw)])]
    raw += b"\0"


def copied(raw: bytearray, dice: random.Random) -> None:
    """Copy one block over another: the structures of the file point where they should not."""
    width = dice.choice([8, 24, 64, 512])
    a, b = dice.randrange(len(raw)), dice.randrange(len(raw))
    raw[b : b + width] = raw[a : a + width]


def heads(raw: bytearray, dice: random.Random) -> None:
    """Flip bits near one of HDF5's own signatures."""
    mark = dice.choice([b"TREE", b"HEAP", b"SNOD", b"GCOL", b"\x89HDF", b"OHDR", b"BTHD"])
    places = [i for i in range(len(raw)) if raw.startswith(mark, i)] or [0]
    at = dice.choice(places) + dice.randrange(96)
    if at < len(raw):
        raw[at] = dice.choice([0, 1, 0x7F, 0xFF, raw[at] ^ 1 << dice.randrange(8)])


BYTES: dict[str, Callable[[bytearray, random.Random], None]] = {
    "flip": flip, "extreme": extreme, "cut": cut, "copied": copied, "heads": heads,
}  # fmt: skip


def spoil(file: h5py.File, dice: random.Random) -> None:
    """Replace, remove, rename or link one object of a file that stays valid HDF5."""
    found: list[str] = []
    file.visit(found.append)
    if not found:
        return
    name = dice.choice(found)
    what = dice.choice(["remove", "rename", "link", "loop", "value", "value", "value"])
    target = dice.choice(found)
    try:
        if what == "remove":
            del file[name]
        elif what == "rename":
            file.move(name, dice.choice([f"{name}/x", "node/nodes/é\n", f"{name}2", target + "_"]))
        elif what == "link":
            file[f"{name}_"] = dice.choice(
                [h5py.SoftLink("/node"), h5py.ExternalLink("x.nir", "/node")]
            )
        elif what == "loop":
            file[f"{target}/again"] = file[name]
        else:
            del file[name]
            file[name] = VALUES[dice.randrange(len(VALUES))]
    except (ValueError, KeyError, OSError, RuntimeError, TypeError):
        return  # not every change fits every object


VALUES: list[Any] = [
    np.nan, -1, 0, 10**18, np.inf, "NIRGraph", "LIF", "SNU", "", "é" * 1000, b"\xff\xfe",
    np.zeros(0), np.zeros((1, 1, 1, 1, 1)), np.array([10**9, 10**9]), np.full(3, np.nan),
    np.array([-3]), np.array([True]), np.array(["a", "b"], dtype=object), np.ones(3, "complex64"),
    np.array([["input", "input"], ["a", "b"]], dtype=object), np.arange(6).reshape(2, 3),
]  # fmt: skip


class Worker:
    """A process that reads one file after the other and says what came of it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        if "ready" not in self._line(60.0)["told"]:
            raise RuntimeError("the process that reads did not start")

    def read(self, path: Path) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        return self._line(LIMIT_S)

    def _line(self, limit_s: float) -> dict[str, Any]:
        assert self.process.stdout is not None
        begun, end = self._worked_s(), time.monotonic() + WAITING * limit_s
        with selectors.DefaultSelector() as watch:
            watch.register(self.process.stdout, selectors.EVENT_READ)
            while not watch.select(1.0):
                if self._worked_s() - begun > limit_s or time.monotonic() > end:
                    return {"told": "ESCAPED hang", "s": limit_s, "kib": 0}
        line = self.process.stdout.readline()
        told: dict[str, Any] = (
            json.loads(line) if line else {"told": "ESCAPED crash", "s": 0.0, "kib": 0}
        )
        return told

    def _worked_s(self) -> float:
        """Return the processor time of the process: on a busy machine it may wait for long."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            return 0.0
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


def fuzz(
    seconds: float, seed: int, folder: Path, *, most: float = math.inf, other: Spoil | None = None
) -> dict[str, Any]:
    """Read mutated files for a while, ``most`` of them; returns the record."""
    files = [path.read_bytes() for path in corpus(folder)]
    dice, told, done = random.Random(seed), Counter[str](), Counter[str]()
    worst_s, worst_kib, findings = 0.0, 0, []
    path, worker = folder / "mutant", Worker()
    end = time.monotonic() + seconds  # the worker has started
    while time.monotonic() < end and sum(told.values()) < most:
        data = dice.choice(files)
        done[mutated(data, dice, path, other)] += 1
        said = worker.read(path)
        told[said["told"].split(":")[0]] += 1
        worst_s = max(worst_s, said["s"])
        worst_kib = max(worst_kib, said["kib"])
        if said["told"].startswith("ESCAPED"):
            findings.append(said["told"])
            (folder / f"finding-{len(findings)}").write_bytes(path.read_bytes())
        if not said["kib"] or sum(told.values()) % 2000 == 0:
            worker.close()
            worker = Worker()
    worker.close()
    return {
        "seed": seed, "corpus": len(files), "files": sum(told.values()), "mutations": dict(done),
        "outcomes": dict(told), "worst_s": round(worst_s, 3),
        "worst_mib_with_torch": worst_kib >> 10,
        "findings": findings[:20],
    }  # fmt: skip


def check(record: dict[str, Any]) -> None:
    assert record["findings"] == []
    assert record["worst_mib_with_torch"] < LIMIT_MIB
    assert 0 < record["outcomes"]["refused"] < record["files"]


def test_fuzzed_files_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    record = fuzz(300.0, 0, tmp_path, most=200)
    assert record["files"] == 200
    check(record)


def test_what_fuzzing_found_is_refused_in_one_line(tmp_path: Path) -> None:
    """A shape that is infinite, and a name with a line break (docs/fuzzing.md)."""
    path = next(p for p in corpus(tmp_path) if p.name == "chain.nir")
    whole = path.read_bytes()
    with h5py.File(path, "r+") as file:
        del file["node/nodes/output/shape"]
        file["node/nodes/output/shape"] = np.inf
    with pytest.raises(ValueError, match=r"'output': shape is inf; it must be whole numbers"):
        read(path)
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        file["node/nodes/two\nlines"] = h5py.SoftLink("/node")
    with pytest.raises(ValueError, match="is a link to another place") as refused:
        read(path)
    assert "\n" not in str(refused.value)
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        file[b"node/nodes/\xff\xfe"] = h5py.SoftLink("/node")
    with pytest.raises(ValueError, match=r"xff.xfe' is a link to another place"):
        read(path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_minute_of_fuzzed_files_is_read_or_refused_in_one_line(seed: int, tmp_path: Path) -> None:
    check(fuzz(60.0, seed, tmp_path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--count", type=float, default=math.inf, help="files at most")
    parser.add_argument("--mutator", help="radamsa, zzuf or libfuzzer in place of our own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that were findings")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)

    def work(other: Spoil | None) -> None:
        limits = 60 * options.minutes, options.seed, folder
        print(json.dumps(fuzz(*limits, most=options.count, other=other), indent=1))

    if options.mutator is None:
        work(None)
    else:
        import foreign_mutators

        foreign_mutators.run(options.mutator, options.seed, work)


if __name__ == "__main__":
    main()
