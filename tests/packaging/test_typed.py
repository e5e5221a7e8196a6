"""Somebody else's project is checked against our types, and a terminal shows no colours."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import snu_snntorch as st
import torch
from snu_plugin import SNUConfig, graph, snu_scan, sSNU, zoo
from snu_plugin.accelerator import PCM, Accelerator
from snu_plugin.compiler import compile
from snu_plugin.hil import fine_tune

x = torch.rand(3, 2, 4)
y, state = snu_scan(x, SNUConfig(decay=0.9))  # to torch's types every call of a module is Any
reveal_type(y)
reveal_type(state.s)
g = st.to_nir(torch.nn.Sequential(torch.nn.Linear(4, 4), st.SNU()))
chip = Accelerator(compile(g, PCM), seed=0)
reveal_type(chip)
reveal_type(fine_tune(chip, [x], teacher=g).after)
reveal_type(graph.verify(g).exact)
reveal_type(zoo.card("jsb-snu").score)
SNUConfig(decay="fast")
sSNU(4).forward("spikes")
"""
"""What a user writes; the last two lines are wrong."""


@pytest.mark.slow
def test_mypy_knows_our_types_in_a_fresh_project(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(PROGRAM)
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "main.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": f"{ROOT}:{ROOT / 'adapters'}"},
    )
    shown = [said.rsplit(".", 1)[-1] for said in re.findall(r'type is "(.*?)"', ran.stdout)]
    numbers = [said for said in shown if "float" in said or "bool" in said]
    assert shown[:3] == ["Tensor", "Tensor", "Accelerator"], ran.stdout
    assert numbers == ["float | None", "bool", "float"], ran.stdout
    lines = PROGRAM.splitlines()
    wrong = [lines[int(n) - 1] for n in re.findall(r"main.py:(\d+): error", ran.stdout)]
    assert wrong == lines[-2:], ran.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal of POSIX")
@pytest.mark.parametrize("arguments", [["zoo", "list"], ["--help"], ["zoo", "get", "no-such"]])
def test_nothing_is_coloured_on_a_terminal_that_asks_for_none(arguments: list[str]) -> None:
    ours, theirs = os.openpty()
    ran = subprocess.Popen(
        [sys.executable, "-m", "snu_plugin.cli", *arguments],
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "NO_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "80"},
    )
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:  # Linux says so at the end
        pass
    ran.wait()
    os.close(ours)
    assert said
    assert b"\x1b" not in said
