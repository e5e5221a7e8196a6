"""Run the code of the documentation: ``python docs/make/run_pages.py PAGE ...``.

A page is one program: its blocks of ``python`` share their names, lines of ``sh`` that begin with
``snu`` run the command, and a block of another language is written to the file that the text before
it names last, as in "this is `mine.toml`:". What a block prints is the block of ``text`` behind it;
this writes it there, and the tests compare. A block behind ``<!-- not run: why -->`` is left out;
one behind ``<!-- needs: package -->`` is, where the package is missing. The cells of a notebook
are run the same way by the tests; this stores what they show, with the extra ``notebooks``.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import os
import re
import shlex
import sys
import tempfile
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]

FENCE = re.compile(
    r"(?:^<!-- (?P<mark>not run|needs): (?P<what>.*?) -->\n)?"
    r"^```(?P<language>\w+)\n(?P<code>.*?)^```\n"
    r"(?P<answer>\n?^```text\n(?P<shown>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)
NAMED = re.compile(r"`([\w./-]+\.\w+)`[^`\n]*:\n*$")


class Block(NamedTuple):
    """A piece of a page that does something."""

    language: str
    code: str
    shown: str
    """What the page says that it prints."""
    line: int
    """Where the code begins, from 1."""
    file: str
    """Where code of other languages is written; empty: nowhere."""


def pages() -> Iterator[Path]:
    """Return every page with code."""
    for path in [*sorted((ROOT / "docs").rglob("*")), ROOT / "adapters" / "README.md"]:
        if path.suffix == ".ipynb" or (path.suffix == ".md" and "```python" in path.read_text()):
            yield path


def blocks(path: Path) -> Iterator[Block]:
    """Return what a page does, in order, but for what it marks."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        for cell in json.loads(text)["cells"]:
            if cell["cell_type"] == "code":
                yield Block("python", "".join(cell["source"]), "", 1, "")
        return
    for found in FENCE.finditer(text):
        if found["mark"] == "not run" or (found["mark"] == "needs" and missing(found["what"])):
            continue
        named = NAMED.search(text[: found.start()])
        line = text.count("\n", 0, found.start("code")) + 1
        file = named[1] if named else ""
        yield Block(found["language"], found["code"], found["shown"] or "", line, file)


def missing(package: str) -> bool:
    """Tell whether a package that a block needs is not here."""
    return importlib.util.find_spec(package) is None


def run(path: Path) -> Iterator[tuple[Block, str]]:
    """Run a page in the folder one is in; yields every block that may print with what it printed.

    Raises:
        Exception: What the page raises; its lines are those of the page.
    """
    module = types.ModuleType("page")
    sys.modules["page"] = module  # what is defined in a page can be found there
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in blocks(path):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                if block.language == "python":
                    code = "\n" * (block.line - 1) + block.code
                    exec(compile(code, str(path), "exec"), vars(module))
                elif block.language == "sh":
                    _commands(block.code)
                elif block.file:
                    Path(block.file).write_text(block.code, encoding="utf-8")
            if block.language in ("python", "sh"):
                yield block, printed.getvalue()


def _commands(lines: str) -> None:
    from snu_plugin import cli

    for line in lines.replace("\\\n", " ").splitlines():
        name, *arguments = shlex.split(line, comments=True) or [""]
        if name == "snu" and cli.main(arguments) not in (0, 1):
            raise RuntimeError(f"{line} fails")


def fill(path: Path) -> None:
    """Run a page and write what its blocks print behind them."""
    printed = {block.line: text for block, text in run(path)}
    text = path.read_text(encoding="utf-8")

    def answered(found: re.Match[str]) -> str:
        line = text.count("\n", 0, found.start("code")) + 1
        if line not in printed:
            return found[0]
        code = found[0].removesuffix(found["answer"] or "")
        return code + (f"\n```text\n{printed[line].rstrip()}\n```\n" if printed[line] else "")

    path.write_text(FENCE.sub(answered, text), encoding="utf-8")


def execute(path: Path) -> None:
    """Run a notebook as Jupyter does and store what it shows."""
    nbformat: Any = importlib.import_module("nbformat")
    nbclient: Any = importlib.import_module("nbclient")
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    nbclient.NotebookClient(notebook, timeout=300, record_timing=False).execute()
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{path.stem}-{number}"
        if cell.cell_type == "code":
            cell.outputs = _shown(cell.outputs)
    nbformat.write(notebook, path)


def _shown(outputs: list[Any]) -> list[Any]:
    """Join what was printed in pieces; warnings name places of this machine and go."""
    shown: list[Any] = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        if shown and output.get("name") == shown[-1].get("name") == "stdout":
            shown[-1].text += output.text
        else:
            shown.append(output)
    return shown


if __name__ == "__main__":
    for name in sys.argv[1:]:
        page = Path(name).resolve()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            execute(page) if page.suffix == ".ipynb" else fill(page)
            os.chdir(ROOT)
