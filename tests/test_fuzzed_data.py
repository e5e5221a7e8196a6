"""Mutated data, settings, chips and checkpoints: read or refused in one line, in bounded memory.

``python tests/test_fuzzed_data.py --kind npz --count 10000 --seed 0`` prints the record in
docs/fuzzing.md; without ``--kind`` all are run, one after the other. With ``--whole FILE`` copies
of that file are spoilt, a checkpoint that a command left, and ``--mutator`` takes a mutator of
another make (``docs/make/foreign_mutators.py``, whose folder must be on ``PYTHONPATH``).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import random
import resource
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from snu_plugin import archives, files
from snu_plugin.accelerator import PCM, Accelerator, dump_chip, load_chip
from snu_plugin.bench import simulators
from snu_plugin.compiler import compile
from snu_plugin.experiments import data_files
from snu_plugin.hil import messages, serve
from snu_plugin.tasks import bach, chorales, digits, nmnist, penn_treebank
from snu_plugin.training.checkpoint import load_checkpoint, save_checkpoint

LIMIT_S = 20.0
"""Of processor time for a file."""
LIMIT_KIB = 2 << 20
ADDRESSES = 16 << 30
"""Bytes of address space, torch's libraries included: a bomb ends in a MemoryError."""


class Kind(NamedTuple):
    """A kind of file: how one is made, and who reads it."""

    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]
    pack: str = "plain"
    """How the content is wrapped, so that it can be mutated inside: gzip, zip, digest, plain."""
    few: int = 20
    """How many spoilt copies the quick test reads."""
    sealed: bool = False
    """Whether nothing may be read of which a bit was changed without a new digest."""


def draw() -> np.random.Generator:
    return np.random.default_rng(0)


def make_npz(file: Path) -> None:
    x = draw().integers(0, 2, (4, 6, 3)).astype(np.float32)
    np.savez_compressed(file, x=x, labels=np.arange(6) % 2)


def make_idx(file: Path) -> None:
    head = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28])
    pixels = draw().integers(0, 256, 1568).astype(np.uint8).tobytes()
    file.write_bytes(gzip.compress(head + pixels, mtime=0))


def make_nmnist(file: Path) -> None:
    values: dict[str, Any] = {n: draw().integers(0, 2, 14).astype(np.uint8) for n in "xyp"}
    values |= {"t": np.arange(14), "offsets": np.array([0, 5, 5, 14])}
    values |= {"mnist_id": np.array([1, 2, 60001]), "label": np.array([5, 0, 7])}
    np.savez(file, **values)


def make_score(file: Path) -> None:
    note = "<note><pitch><step>C</step><octave>4</octave></pitch><duration>2</duration></note>"
    part = (
        f"<part><measure><attributes><divisions>2</divisions></attributes>{note}</measure></part>"
    )
    with zipfile.ZipFile(file, "w") as archive:
        root = '<container><rootfiles><rootfile full-path="s.xml"/></rootfiles></container>'
        archive.writestr("META-INF/container.xml", root)
        archive.writestr("s.xml", f"<score-partwise>{4 * part}</score-partwise>")


def make_mat(file: Path) -> None:
    from scipy.io import savemat

    cell = np.empty((1, 2), dtype=object)
    cell[0, 0], cell[0, 1] = np.eye(4, 88), np.eye(6, 88)
    savemat(file, dict.fromkeys(("traindata", "validdata", "testdata"), cell))


def make_chip(file: Path) -> None:
    chip = Accelerator(compile(simulators.example(), PCM), 0)
    chip.program()
    chip.save(file)


def make_checkpoint(file: Path) -> None:
    save_checkpoint(file, {"weight": torch.arange(40.0), "epoch": 3}, {"lr": 0.1})


def make_device(file: Path) -> None:
    rows = ["g_us,mean_us,sd_us,nu_mean,nu_sd,read_sd_us,step_us,step_sd_us"]
    rows += [f"{g},{g},{0.2 + g / 50},0.05,0.01,0.1,{2 - g / 20},0.3" for g in (0, 5, 12.5, 25)]
    file.write_text("\n".join(rows) + "\n")


def read_device(file: Path) -> None:
    toml = file.with_suffix(".toml")
    toml.write_text(f'like = "PCM"\n[device]\ntable = "{file.name}"\n')
    load_chip(toml)


def make_rows(file: Path) -> None:
    file.write_text(
        'like = "PCM"\n[device]\nwriting = [[0.0, 0.0, 0.2], [25.0, 25.0, 0.5]]\n'
        "drift = [[0.0, 0.05, 0.02], [25.0, 0.04, 0.01]]\nread_noise = [[0.0, 0.1], [25.0, 0.3]]\n"
        "pulses = [[0.0, 2.0, 0.3], [25.0, 0.1, 0.2]]\n"
    )


def make_message(file: Path) -> None:
    head, *parts = messages.pack({"weight": torch.eye(3), "names": ["a", "b"], "at": 1.5})
    file.write_bytes(b"\n".join([head, *parts]))


def read_message(file: Path) -> None:
    with _named(file):
        messages.unpack(file.read_bytes().split(b"\n", 1))


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Name the file where a message from it is refused: a socket has no name."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{file.name}: {error}") from error


def make_journal(file: Path) -> None:
    chip = file.with_name(f"{file.name}.chip")
    make_chip(chip)
    (_journal_of(file) / "0").unlink(missing_ok=True)
    serve.KeptChip(chip)
    (_journal_of(file) / "0").replace(file)


def read_journal(file: Path) -> None:
    folder = _journal_of(file)
    (folder / "0").write_bytes(file.read_bytes())
    serve.KeptChip(file.with_name(f"{file.name}.chip")).answer("standing", 0)


def _journal_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.chip.journal")


def read_idx(file: Path) -> None:
    digits.parse_idx(archives.read_bytes(file), str(file))


def read_nmnist(file: Path) -> None:
    found = nmnist.load(file, verify=False)
    for part in (found.train, found.test):
        for i in range(len(part)):
            nmnist.frames(part[i], 3, 1000)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("npz", make_npz, lambda f: data_files.load_scored(f, (3,), (2,)), "zip"),
        Kind("inputs.npz", make_npz, data_files.load_inputs, "zip"),
        Kind("npy", lambda f: np.save(f, draw().random((3, 2, 5))), simulators.data),
        Kind("idx.gz", make_idx, read_idx, "gzip"),
        Kind("nmnist.npz", make_nmnist, read_nmnist, "zip"),
        Kind("bin", lambda f: f.write_bytes(bytes(range(30)) * 4),
             lambda f: nmnist.decode(f.read_bytes(), str(f))),
        Kind("txt", lambda f: f.write_text("to be or not to be\n" * 30),
             penn_treebank.load),
        Kind("mxl", make_score, lambda f: bach.read_scores([f], False), "zip"),
        # Each is read in a process of its own.
        Kind("mat", make_mat, lambda f: chorales.load(f, verify=False), few=3),
        Kind("toml", lambda f: dump_chip(PCM, f), load_chip),
        Kind("chip.npz", make_chip, Accelerator.load, "digest", sealed=True),
        Kind("checkpoint", make_checkpoint, lambda f: load_checkpoint(f, {"lr": 0.1}), "digest",
             sealed=True),
        Kind("csv", make_device, read_device),
        Kind("rows.toml", make_rows, load_chip),
        Kind("keys", messages.make_keys, messages.read_keys),
        Kind("message", make_message, read_message),
        Kind("journal", make_journal, read_journal, "digest", sealed=True),
    )
}  # fmt: skip


def left_by_a_command(file: Path) -> Kind:
    """Return the kind of a checkpoint that a command left."""
    whole = file.read_bytes()
    settings = json.loads(torch.load(io.BytesIO(whole), weights_only=True)["settings"])
    return Kind(
        file.name, lambda f: f.write_bytes(whole), lambda f: load_checkpoint(f, settings), "digest",
        sealed=True,
    )  # fmt: skip


def flip(raw: bytearray, dice: random.Random) -> None:
    raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)


def number(raw: bytearray, dice: random.Random) -> None:
    """Overwrite up to 8 bytes by a number that sizes go wrong with."""
    width, at = dice.choice([1, 2, 4, 8]), dice.randrange(len(raw))
    value = dice.choice([0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, len(raw), at])
    order = dice.choice(["little", "big"])
    raw[at : at + width] = (value % 2 ** (8 * width)).to_bytes(width, order)


def cut(raw: bytearray, dice: random.Random) -> None:
    at = dice.randrange(len(raw))
    del raw[at : at + dice.choice([1, 8, 64, len(raw)])]
    raw += b"\0" * (not raw)


def splice(raw: bytearray, dice: random.Random) -> None:
    """Copy one block over another, or between."""
    width, a, b = dice.choice([4, 24, 64, 512]), *(dice.randrange(len(raw)) for _ in "ab")
    raw[b : b + dice.choice([0, width])] = raw[a : a + width]


def text(raw: bytearray, dice: random.Random) -> None:
    """Put in what parsers of text go wrong with, at the end of a word."""
    places = np.flatnonzero(ENDS_A_WORD[np.frombuffer(bytes(raw), np.uint8)])
    at = (int(dice.choice(places)) if len(places) else dice.choice([0])) + 1
    raw[at : at + dice.choice([0, 1, 4])] = dice.choice(WORDS)


WORDS = [
    b"9" * 5000, b"[" * 5000, b"(" * 300, b"-1", b"1e999", b"nan", b"inf", b"0", b"\xff\xfe", b"\0",
    b'"', b"'", b"\n", b"{", b"true", b"2020-01-01", b"<a>" * 3000, b"999999999999", b"|O", b"<f8",
    b"&x;", b"(2, 9223372036854775807)", b"_" * 200, b"\xed\xa0\x80", b"# ", b"= [1, 2]", b"<!--",
]  # fmt: skip

ENDS_A_WORD = np.isin(np.arange(256), list(b" =(,><\n"))

MUTATORS = (flip, number, cut, splice, text)


Spoil = Callable[[bytes, random.Random], bytes]
"""Returns a spoilt copy of bytes."""


def mutated(whole: bytes, pack: str, dice: random.Random, spoil: Spoil) -> tuple[bytes, bool]:
    """Return a spoilt copy, every second time inside of what it is packed in; and whether it is."""
    if dice.random() < 0.5 and (inside := INSIDE.get(pack)):
        return inside(whole, dice, spoil), True
    return spoil(whole, dice), False


def spoilt(content: bytes, dice: random.Random) -> bytes:
    raw, how = bytearray(content), dice.choice(MUTATORS)
    for _ in range(dice.choice([1, 1, 2, 4, 16])):
        how(raw, dice)
    return bytes(raw)


def repacked(whole: bytes, dice: random.Random, spoil: Spoil) -> bytes:
    """Spoil one member of a zip archive, which stays sound as an archive."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(made, "w") as new:
        victim = dice.choice(old.namelist())
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, spoil(content, dice) if name == victim else content)
    return made.getvalue()


def forged(whole: bytes, dice: random.Random, spoil: Spoil) -> bytes:
    """Spoil what a digest is of, and add one that fits: whoever does that means it."""
    content = whole[: -files.DIGEST_SIZE]
    zipped = zipfile.is_zipfile(io.BytesIO(content)) and dice.random() < 0.7
    content = repacked(content, dice, spoil) if zipped else spoil(content, dice)
    sha = hashlib.sha256(content).hexdigest()
    return content + f"\nsnu-plugin sha256 {sha}\n".encode()


INSIDE: dict[str, Callable[[bytes, random.Random, Spoil], bytes]] = {
    "gzip": lambda whole, dice, spoil: gzip.compress(spoil(gzip.decompress(whole), dice), mtime=0),
    "zip": repacked,
    "digest": forged,
}


def verdict(kind: Kind, path: Path, changed: bool) -> str:
    """Return what came of reading one file."""
    try:
        kind.read(path)
    except (ValueError, FileNotFoundError) as error:
        told = str(error)
        fine = told and "\n" not in told and path.stem in told and len(told) < 2000
        return "refused" if fine else f"ESCAPED {told[:200]!r}"
    except Exception as error:
        return f"ESCAPED {type(error).__name__}: {str(error)[:200]}"
    return "ESCAPED changed, and read" if kind.sealed and changed else "read"


def fuzz(kind: Kind, count: int, seed: int, folder: Path, spoil: Spoil = spoilt) -> dict[str, Any]:
    """Read so many mutated files; returns the record. The last one stays in the folder."""
    path = folder / f"mutant.{kind.name}"
    kind.make(path)
    whole = path.read_bytes()
    dice, told, worst_s, findings = random.Random(seed), Counter[str](), 0.0, []
    for k in range(count):
        content, inside = mutated(whole, kind.pack, dice, spoil)
        path.write_bytes(content)
        begin = processor_s()
        said = verdict(kind, path, content != whole and not inside)
        worst_s = max(worst_s, processor_s() - begin)
        told[said.split(" ", 1)[0]] += 1
        if said.startswith("ESCAPED"):
            findings.append(said)
            (folder / f"finding-{k}.{kind.name}").write_bytes(content)
    return {
        "kind": kind.name, "seed": seed, "files": count, "outcomes": dict(told),
        "worst_s": round(worst_s, 3), "mib_with_torch": peak_kib() >> 10,
        "findings": sorted(set(findings))[:20],
    }  # fmt: skip


def processor_s() -> float:
    """Return the seconds of processor time of this process and those it started and saw end."""
    theirs = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + theirs.ru_utime + theirs.ru_stime


def peak_kib() -> int:
    # ru_maxrss of a fresh process starts at its parent's peak; the kernel's own mark does not.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


@pytest.mark.filterwarnings("ignore:.*is not the Mikolov PTB")
@pytest.mark.parametrize("name", KINDS)
def test_files_as_they_were_written_are_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"whole.{name}"
    KINDS[name].make(path)
    KINDS[name].read(path)


def test_mutated_files_of_every_kind_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    from forked import Process, script  # which this file finds not where it is run as a script

    few = ["--few", "--seed", "0", "--keep", str(tmp_path)]
    done = Process(script(Path(__file__)), *few, ours=True)
    assert done.wait() == 0, done.err[-2000:]
    records = [json.loads(line) for line in done.out.splitlines()]
    assert [record["kind"] for record in records] == list(KINDS)
    for record in records:
        assert record["findings"] == [], record["kind"]
        assert record["worst_s"] < LIMIT_S
        assert record["mib_with_torch"] << 10 < LIMIT_KIB
        assert record["outcomes"]["refused"] > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--whole", type=Path, help="checkpoint of which copies are spoilt")
    parser.add_argument("--mutator", help="radamsa, zzuf or libfuzzer in place of our own")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--few", action="store_true", help="as many as the quick test reads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that were findings")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    warnings.simplefilter("ignore")
    folder = options.keep or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    kinds = [KINDS[options.kind]] if options.kind else list(KINDS.values())
    if options.whole:
        kinds = [left_by_a_command(options.whole)]

    def work(spoil: Spoil) -> None:
        for kind in kinds:
            count = kind.few if options.few else options.count
            print(json.dumps(fuzz(kind, count, options.seed, folder, spoil)), flush=True)

    if options.mutator is None:
        work(spoilt)
    else:
        import foreign_mutators

        foreign_mutators.run(options.mutator, options.seed, work)


if __name__ == "__main__":
    main()
