"""Compiled loops are kept on disk, and never longer than the code that they were made of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType

import pytest

pytest.importorskip("numba")

HEADER = "from snu_plugin.neuron.numba_scan.jit import compiled\n"
CALLED = HEADER + "STEP = {}\n@compiled\ndef more(x):\n    return x + STEP\n"
CALLER = HEADER + "from called import more\n@compiled\ndef twice(x):\n    return more(more(x))\n"
EMITS = """
from numba import types
from numba.extending import intrinsic
from called import STEP, more
{}
@intrinsic
def emitted(context, x):
    return x(x), lambda context, builder, signature, values: values[0].type(STEP + {})

@compiled
def twice(x):
    return emitted(x)
"""
RUN = "import caller; print(caller.twice({}), sum(caller.twice.stats.cache_hits.values()))"
PARENT = """
import json, os, sys, traceback
import numba
import snu_plugin.neuron.numba_scan.jit
numba.njit(lambda x: x)(1.0)  # the compiler itself is loaded once
sys.dont_write_bytecode = True  # of which Python takes edits within a second for none
for line in sys.stdin:
    folder, cache, code = json.loads(line)
    if not (child := os.fork()):
        os.chdir(folder)
        sys.path.insert(0, folder)
        numba.config.CACHE_DIR = cache
        try:
            exec(code)
        except BaseException:
            traceback.print_exc()
            print("failed")
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
"""
Ran = Callable[..., list[float]]


@pytest.fixture(scope="module")
def ran() -> Iterator[Ran]:
    """Tell what a process of its own finds in a folder, and how often it found it compiled.

    Processes are forked from one that has loaded all they need, and compiled nothing of theirs.
    """
    command = [sys.executable, "-c", PARENT]
    path = os.pathsep.join(sys.path)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        env={**os.environ, "PYTHONPATH": path},
    ) as parent:  # fmt: skip
        assert parent.stdin is not None
        assert parent.stdout is not None
        asks, answers = parent.stdin, parent.stdout

        def ask(folder: Path, given: str = "0") -> list[float]:
            print(json.dumps([str(folder), str(folder / "cache"), RUN.format(given)]), file=asks)
            return [float(word) for word in answers.readline().split()]

        yield ask
        asks.close()


def test_a_loop_is_compiled_once_and_again_when_what_it_calls_has_changed(
    tmp_path: Path, ran: Ran
) -> None:
    (tmp_path / "called.py").write_text(CALLED.format(1))
    (tmp_path / "caller.py").write_text(CALLER)
    assert ran(tmp_path) == [2, 0]
    assert ran(tmp_path) == [2, 1]
    (tmp_path / "called.py").write_text(CALLED.format(5))
    assert ran(tmp_path) == [10, 0]
    assert ran(tmp_path) == [10, 1]


def test_an_edit_that_changes_no_instruction_compiles_nothing(tmp_path: Path, ran: Ran) -> None:
    (tmp_path / "called.py").write_text(CALLED.format(1))
    (tmp_path / "caller.py").write_text(CALLER)
    assert ran(tmp_path) == [2, 0]
    (tmp_path / "called.py").write_text("# a comment\nOTHER = 3\n" + CALLED.format(1))
    (tmp_path / "beside.py").write_text("")
    assert ran(tmp_path) == [2, 1]


def test_a_loop_with_emitted_instructions_is_compiled_again_when_their_file_has_changed(
    tmp_path: Path, ran: Ran
) -> None:
    (tmp_path / "called.py").write_text(CALLED.format(1))
    (tmp_path / "caller.py").write_text(EMITS.format(HEADER, 0))
    assert ran(tmp_path) == [1, 0]
    assert ran(tmp_path) == [1, 1]
    (tmp_path / "caller.py").write_text(EMITS.format(HEADER, 2))
    assert ran(tmp_path) == [3, 0]


def test_processes_that_compile_at_once_keep_what_each_of_them_compiled(
    tmp_path: Path, ran: Ran
) -> None:
    (tmp_path / "called.py").write_text(CALLED.format(1))
    (tmp_path / "caller.py").write_text(CALLER)
    assert ran(tmp_path) == [2, 0]
    kept = {file: file.read_bytes() for file in (tmp_path / "cache").rglob("*.nb?")}
    for file in kept:
        file.unlink()  # as another process finds it that begins before the first has ended
    assert ran(tmp_path, "0.5") == [2.5, 0]
    for file, content in kept.items():
        assert not file.exists(), "one file for two variants"
        file.write_bytes(content)
    assert ran(tmp_path) == [2, 1]
    assert ran(tmp_path, "0.5") == [2.5, 1]


def test_a_loop_that_has_moved_is_not_taken_for_what_was_kept_of_it() -> None:
    from numba.core.registry import cpu_target

    from snu_plugin.neuron.numba_scan import jit

    here, moved = (FunctionType((lambda x: x).__code__, globals()) for _ in range(2))
    moved.__module__ = "snu_plugin.neuron.numba_scan.elsewhere"
    codegen = cpu_target.target_context.codegen()
    keys = {jit._Cache(loop)._index_key((), codegen) for loop in (here, moved)}
    assert len(keys) == 2
    assert len({jit._digest(loop) for loop in (here, moved)}) == 1


SOURCES = ("jit", "kernels", "simd")
"""What the machine code of ``snu_scan`` is made of."""


def test_an_edit_beside_the_files_that_emit_kernels_leaves_them_as_they_are() -> None:
    from snu_plugin.neuron.numba_scan import jit, kernels

    texts = {
        path.read_text() for path in Path(jit.__file__).parent.glob("*.py") if path.stem in SOURCES
    }
    for kernel in (kernels.forward, kernels.backward):
        for loop in (kernel.part, kernel.together):
            made_of = set(jit._made_of(loop, set()))
            assert {part for part in made_of if part.count("\n") > 1} <= texts
            assert made_of & texts
