"""How large the rooms are, and what a call passes: the counts of docs/house.md.

``house_counts.py`` prints files and lines of code by room (no blanks, comments, docstrings and
imports), then files and functions of our own that four calls enter, compiled loops included, by
names that Python has from 3.11 on.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

import torch
from torch import nn

import snu_plugin as sp
import snu_snntorch as st
from snu_plugin import graph
from snu_plugin.accelerator import PCM, Accelerator
from snu_plugin.compiler import compile

ROOT = Path(__file__).parents[2]
UNNAMED = "<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>", "<lambda>", "<module>"
"""Code that is no function of its own."""


def lines_of_code(text: str) -> int:
    """Return the lines that are neither blank nor comment, docstring or import."""
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom) or (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            left_out.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    kept = (line.strip() for n, line in enumerate(text.splitlines(), 1) if n not in left_out)
    return sum(bool(line) and not line.startswith("#") for line in kept)


def passed(call: Callable[[], object]) -> str:
    """Return how many files and functions of ours a call enters."""
    seen: set[tuple[str, str]] = set()

    def enters(frame: FrameType, event: str, _: object) -> None:
        path, name = frame.f_code.co_filename, str(getattr(frame.f_code, "co_qualname", ""))
        ours = path.startswith((f"{ROOT}/snu_plugin/", f"{ROOT}/adapters/"))
        if event == "call" and ours and not any(part in name for part in UNNAMED):
            seen.add((path, name))

    sys.setprofile(enters)
    try:
        call()
    finally:
        sys.setprofile(None)
    return f"{len({path for path, _ in seen})} files, {len(seen)} functions"


def trip(net: nn.Module) -> None:
    """Take weights from a host to a file, onto a chip and back."""
    with TemporaryDirectory() as folder:
        graph.write(f"{folder}/net.nir", st.to_nir(net))
        g = graph.read(f"{folder}/net.nir")
    chip = Accelerator(compile(g, PCM), seed=0)
    chip.program()
    chip.read_weights()
    st.from_nir(chip.to_nir())


def main() -> int:
    """Print all counts."""
    files, lines = Counter[str](), Counter[str]()
    for path in [*ROOT.glob("snu_plugin/**/*.py"), *ROOT.glob("adapters/**/*.py")]:
        first, *inner = path.relative_to(ROOT).parts
        room = first if first == "adapters" else inner[0] if len(inner) > 1 else "files"
        files[room] += 1
        lines[room] += lines_of_code(path.read_text("utf-8"))
    for room in sorted(files):
        print(f"{room}: {files[room]} files, {lines[room]:,} lines")
    print(f"all: {files.total()} files, {lines.total():,} lines")
    torch.manual_seed(0)
    layer, x = sp.SNU(40), torch.rand(20, 4, 40)
    net = nn.Sequential(nn.Linear(16, 40), st.SNUSequence(beta=0.8), nn.Linear(40, 4))
    chip = Accelerator(compile(st.to_nir(net), PCM), seed=0)
    chip.program()
    spikes = (torch.rand(20, 4, 16) < 0.3).float()
    for name, call in (
        ("SNU.forward", lambda: layer(x)),
        ("Accelerator.run", lambda: chip.run(spikes)),
        ("a weight's whole trip", lambda: trip(net)),
        ("its export", lambda: st.to_nir(net)),
    ):
        call()
        call()  # what is made once is made, also what a second call needs
        print(f"{name}: {passed(call)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
