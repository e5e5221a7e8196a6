"""Commands that write are killed, and meet full and read-only disks: ``docs/make/kills.py``.

Each command runs once undisturbed. Then it is disturbed at a random moment, and run again, with
``--resume`` where a checkpoint lies there. It must end as the undisturbed run did, bit for bit but
for the seconds that it took and the page that shows them, and leave nothing else behind. A signal
that Python sees, a full disk and a read-only place are answered by one line. The tables of
docs/fuzzing.md are what it prints at its end::

    python docs/make/kills.py --kills 60 --full 20 --readonly 10 --seed 0

Runs are forks of this process, which has imported everything; Linux alone. Disks are tmpfs, which
root alone mounts: without it only kills are tried.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import nir
import numpy as np
import torch
from torch import Generator

import page_tables
from snu_plugin import cli, graph
from snu_plugin.experiments import ageing, demo, info, lives, passes
from snu_plugin.graph import encode_snu, stamp
from snu_plugin.neuron import SNUConfig
from snu_plugin.tasks import chorales
from snu_plugin.tasks.chorales import Chorales

DT = 2.0**-10
CLASSES, INPUTS, HIDDEN = 4, 16, 24
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STATUS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
LIMIT_S = 600.0
"""Longer than that no run takes, be the machine as busy as it may."""
SIZES_KB = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384)
"""Of full disks."""


class Command(NamedTuple):
    """What is typed, without ``--out``, and where below the folder of a run its output goes."""

    typed: tuple[str, ...]
    out: str
    resumes: bool


COMMANDS = {
    "demo": Command(("demo", "--epochs", "3"), "out", True),
    "run": Command(("run", "G", "D", "--at", "1h,1y", "--chips", "3", "--reads", "2"), "out", True),
    "run, a file": Command(("run", "G", "D", "--at", "1d", "--chips", "3"), "s.csv", True),
    "life": Command(
        ("life", "G", "D", "--for", "120d", "--do", "none,calibrate", "--chips", "2"), "out", True
    ),
    "tune": Command(("tune", "G", "D", "--epochs", "3"), "out", True),
    "tune, a file": Command(("tune", "G", "D", "--epochs", "3", "--rule", "mixed"), "t.nir", True),
    "tune --compare": Command(
        ("tune", "G", "D", "--compare", "--ways", "digital", "--chips", "2", "--epochs", "1"),
        "out",
        True,
    ),
    "reproduce": Command(("reproduce", "jsb", "--data", "J", "--epochs", "3"), "out", True),
    "map": Command(("map", "G", "D"), "out", False),
    "info --chip": Command(("info", "--chip", "PCM"), "out", False),
}


class Ended(NamedTuple):
    """How a run ended: its status, minus the signal that killed it, and what it said."""

    status: int
    error: str


@dataclass
class Journal:
    """Counts by command and kind, and everything that was found."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    def count(self, command: str, kind: str) -> None:
        """Count one case."""
        self.counts[command, kind] += 1

    def find(self, command: str, kind: str, what: str) -> None:
        """Keep a finding, and say it at once."""
        self.findings.append(f"{command}, {kind}: {what}")
        print(self.findings[-1], file=sys.stderr, flush=True)


def two_chords(count: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Return short pieces that go to and fro between two chords."""
    chords = torch.zeros(2, 88)
    chords[0, [39, 43, 46]] = 1
    chords[1, [41, 44, 48]] = 1
    lengths = torch.randint(24, 30, (count,), generator=Generator().manual_seed(seed))
    return tuple(chords[(torch.arange(n) + n) % 2] for n in lengths.tolist())


def prepare(folder: Path) -> None:
    """Leave a graph ``G`` and data ``D``, ``J`` in a folder, and have commands be quick."""
    draw = np.random.default_rng(0)
    member, unit = np.arange(INPUTS) % CLASSES, np.arange(HIDDEN) % CLASSES
    nodes = {
        "in": nir.Input({"input": np.array([INPUTS])}),
        "fc1": nir.Linear(0.5 * (member == unit[:, None]) - 0.1),
        "snu": encode_snu(SNUConfig(), 0.5, np.full(HIDDEN, 0.8), dt=DT),
        "fc2": nir.Linear(1.0 * (np.arange(CLASSES)[:, None] == unit) - 0.2),
        "out": nir.Output({"output": np.array([CLASSES])}),
    }
    edges = list(zip(list(nodes)[:-1], list(nodes)[1:], strict=True))
    graph.write(folder / "G", stamp(nir.NIRGraph(nodes, edges), DT))
    labels = draw.integers(0, CLASSES, 60)
    rate = np.where(np.arange(INPUTS) % CLASSES == labels[:, None], 0.45, 0.25)
    np.savez(folder / "D.npz", x=draw.random((8, 60, INPUTS)) < rate, labels=labels)
    (folder / "J").write_bytes(b"")
    pieces = Chorales(
        name="music21",
        source="two chords",
        sha256="0" * 64,
        train=two_chords(6, 0),
        valid=two_chords(2, 1),
        test=two_chords(2, 2),
    )
    verify: Callable[..., Any] = graph.verify
    for module, name, value in (
        (chorales, "load", lambda *_, **__: pieces),
        (graph, "verify", lambda g: verify(g, simulators=[])),
        (demo, "AGES_S", {"20s": 20.0, "1d": 86_400.0}),
        (passes, "PASSES", 2),
        (info, "DEVICES", 200),
        (ageing, "EVERY_S", 0.0),
        (lives, "EVERY_S", 0.0),
    ):
        setattr(module, name, value)


def arguments(command: Command, inputs: Path, folder: Path) -> list[str]:
    """Return what is typed for a run whose output goes below a folder."""
    files = {"G": str(inputs / "G"), "D": str(inputs / "D.npz"), "J": str(inputs / "J")}
    typed = [files.get(word, word) for word in command.typed]
    return [*typed, "--out", str(folder / command.out)]


def start(command: Command, inputs: Path, folder: Path, resume: bool) -> int:
    """Start a run whose output goes below a folder; return its process."""
    typed = arguments(command, inputs, folder) + ["--resume"] * resume
    ready, go = os.pipe()
    if (pid := os.fork()) != 0:
        os.close(go)
        os.read(ready, 1)
        os.close(ready)
        return pid
    status = 70
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(inputs / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.write(go, b"1")
        status = cli.main(typed)
    except SystemExit as left:
        status = int(left.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def end(pid: int, inputs: Path, limit_s: float = LIMIT_S) -> Ended:
    """Wait for a run; one that hangs is killed."""
    until = time.monotonic() + limit_s
    while (done := os.waitpid(pid, os.WNOHANG))[0] == 0:
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return Ended(-999, "it hung")
        time.sleep(0.005)
    said = (inputs / "stderr").read_text(errors="replace")
    return Ended(os.waitstatus_to_exitcode(done[1]), said)


def left(folder: Path) -> dict[str, str]:
    """Return every file by name, with what it holds but for the seconds that were measured."""
    return {
        str(file.relative_to(folder)): "a folder" if file.is_dir() else _content(file)
        for file in sorted(folder.rglob("*"))
    }


def _content(file: Path) -> str:
    if file.suffix == ".html":
        return "a page"  # which shows seconds
    content = file.read_bytes()
    if file.suffix == ".json":
        content = json.dumps(_timeless(json.loads(content))).encode()
    return hashlib.sha256(content).hexdigest()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if not (k == "seconds" or "minutes" in k)}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def undisturbed(command: Command, inputs: Path) -> tuple[dict[str, str], float]:
    """Return what a run leaves, and how long it takes where everything is imported."""
    with tempfile.TemporaryDirectory() as name, redirect_stdout(io.StringIO()):
        if cli.main(arguments(command, inputs, Path(name))) != 0:
            raise RuntimeError(f"{command.typed} does not run")
    with tempfile.TemporaryDirectory() as name:
        began = time.monotonic()
        ended = end(start(command, inputs, Path(name), False), inputs)
        if ended.status != 0:
            raise RuntimeError(f"{command.typed} does not run: {ended.error}")
        return left(Path(name)), time.monotonic() - began


def afterwards(
    name: str, kind: str, inputs: Path, folder: Path, whole: dict[str, str], journal: Journal
) -> None:
    """Run a command again where it was disturbed, and compare."""
    command = COMMANDS[name]
    kept = any("checkpoint" in file.name for file in folder.rglob("*.checkpoint"))
    resume = command.resumes and kept
    ended = end(start(command, inputs, folder, resume), inputs)
    kind += ", taken up" if resume else ", anew"
    if ended.status != 0:
        journal.find(name, kind, f"status {ended.status}: {ended.error}")
        return
    found = left(folder)
    if found != whole:
        odd = sorted(key for key in found.keys() | whole if found.get(key) != whole.get(key))
        journal.find(name, kind, f"differs in {', '.join(odd)}")
    journal.count(name, "taken up" if resume else "anew")


def answered(name: str, kind: str, ended: Ended, status: int, journal: Journal) -> None:
    """Check that a disturbed run ended as it should, in one line."""
    if ended.status not in (status, 0):
        journal.find(name, kind, f"status {ended.status}, not {status}: {ended.error}")
    elif ended.status > 0:
        said = f"snu {COMMANDS[name].typed[0]}: "
        lines = ended.error.splitlines()  # of warnings, and then of the end
        if not lines or not all(line.startswith(said) for line in lines):
            journal.find(name, kind, f"not one line: {ended.error}")


def kill(
    name: str, sent: signal.Signals, inputs: Path, whole: tuple[Any, float], journal: Journal,
    draw: random.Random,
) -> None:  # fmt: skip
    """Kill a run at a random moment."""
    with tempfile.TemporaryDirectory() as there:
        pid = start(COMMANDS[name], inputs, Path(there), False)
        time.sleep(draw.uniform(0.02, whole[1]))
        os.kill(pid, sent)
        ended = end(pid, inputs)
        answered(name, sent.name, ended, STATUS[sent], journal)
        journal.count(name, sent.name if ended.status else "done before")
        afterwards(name, sent.name, inputs, Path(there), whole[0], journal)


@contextmanager
def disk(options: str) -> Iterator[Path]:
    """Give a file system of its own."""
    with tempfile.TemporaryDirectory() as name:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", name], check=True)
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "-l", name], check=True)


def remount(folder: Path, options: str) -> None:
    """Change a file system."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def fill(name: str, inputs: Path, size_kb: int, whole: dict[str, str], journal: Journal) -> None:
    """Run on a disk that is too small; then it grows."""
    kind = f"full at {size_kb} kB"
    with disk(f"size={size_kb}k") as there:
        ended = end(start(COMMANDS[name], inputs, there, False), inputs)
        answered(name, kind, ended, 2, journal)
        odd = [file for file in there.rglob("*") if file.name.startswith(".")]
        if odd:
            journal.find(name, kind, f"left {odd}")
        journal.count(name, "full" if ended.status else "room enough")
        remount(there, "size=64m")
        afterwards(name, kind, inputs, there, whole, journal)


def forbid(
    name: str, inputs: Path, whole: dict[str, str], seconds: float, journal: Journal
) -> None:
    """Run in a read-only place: it is said before the work; then it may be written."""
    with disk("size=64m") as there:
        remount(there, "ro")
        began = time.monotonic()
        ended = end(start(COMMANDS[name], inputs, there, False), inputs)
        answered(name, "read-only", ended, 2, journal)
        if ended.status == 0:
            journal.find(name, "read-only", "it was not noticed")
        if time.monotonic() - began > max(1.0, seconds):
            journal.find(name, "read-only", "it was said after the work")
        journal.count(name, "read-only")
        remount(there, "rw")
        afterwards(name, "read-only", inputs, there, whole, journal)


def table(journal: Journal, names: list[str]) -> str:
    """Return the counts in Markdown."""
    kinds = [*(s.name for s in SIGNALS), "done before", "full", "room enough", "read-only"]
    kinds += ["taken up", "anew"]
    rows = [(f"`snu {name}`", *(journal.counts[name, kind] for kind in kinds)) for name in names]
    every = (sum(journal.counts[name, kind] for name in names) for kind in kinds)
    return page_tables.table(("command", *kinds), [*rows, ("all", *every)])


def main() -> int:
    """Disturb; 1 if anything was lost, left behind, hung or answered otherwise."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--full", type=int, default=20)
    parser.add_argument("--readonly", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="commands, separated by semicolons")
    options = parser.parse_args()
    torch.set_num_threads(1)
    draw, journal = random.Random(options.seed), Journal()
    names = options.only.split(";") if options.only else list(COMMANDS)
    inputs = Path(tempfile.mkdtemp())
    try:
        prepare(inputs)
        whole = {}
        for name in names:
            whole[name] = undisturbed(COMMANDS[name], inputs)
            print(f"{name}: {whole[name][1]:.1f} s", file=sys.stderr, flush=True)
        for n in range(options.kills):
            name = names[n % len(names)]
            sent = SIGNALS[(n // len(names) + n % len(names)) % 3]
            kill(name, sent, inputs, whole[name], journal, draw)
        if shutil.which("mount") is None or os.geteuid() != 0:
            print("no disks: root alone mounts them", file=sys.stderr)
            options.full = options.readonly = 0
        for n in range(options.full):
            name = names[n % len(names)]
            fill(name, inputs, draw.choice(SIZES_KB), whole[name][0], journal)
        for n in range(options.readonly):
            name = names[n % len(names)]
            forbid(name, inputs, *whole[name], journal)
    finally:
        shutil.rmtree(inputs)
    print(table(journal, names))
    print(f"\n{len(journal.findings)} findings", *journal.findings, sep="\n")
    return 1 if journal.findings else 0


if __name__ == "__main__":
    sys.exit(main())
