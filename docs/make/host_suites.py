"""The hosts' own tests, with and without ``register()``: every test must end alike.

``python docs/make/host_suites.py CHECKOUT`` takes a checkout of github.com/jeshraghian/snntorch,
whose tests are in no package; those of Norse are installed with it. Each suite runs twice, in
processes of its own, against the installed hosts. It ends with 1 where a test ends otherwise.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

RUN = """
import importlib, sys
import pytest
if sys.argv[1] != "-":
    importlib.import_module(sys.argv[1]).register()
options = "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors"
raise SystemExit(pytest.main([*options, *sys.argv[2:]]))
"""

Outcomes = dict[str, str]
"""How each test ended, by its name."""


def outcomes(adapter: str, tests: Sequence[str], where: Path) -> Outcomes:
    """Return how tests end in a process in which an adapter is registered, ``"-"`` for none.

    Raises:
        RuntimeError: If the process ends without a record of them.
    """
    record = where / "record.xml"
    record.unlink(missing_ok=True)
    command = [sys.executable, "-c", RUN, adapter, *tests, f"--junitxml={record}"]
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    if not record.is_file():
        raise RuntimeError(f"no test ran: {(done.stdout + done.stderr)[-2000:]}")
    # Written by pytest, in this process's own folder.
    cases = ET.parse(record).getroot().iter("testcase")
    return {f"{c.get('classname')}::{c.get('name')}": ending(c) for c in cases}


def ending(case: ET.Element) -> str:
    """Return in a word how a test ended."""
    found = next((c for c in case if c.tag in ("failure", "error", "skipped")), None)
    if found is None:
        return "passed"
    expected = found.tag == "skipped" and found.get("type") == "pytest.xfail"
    return "xfailed" if expected else {"failure": "failed"}.get(found.tag, found.tag)


def compared(name: str, alone: Outcomes, registered: Outcomes) -> tuple[str, bool]:
    """Return what became of a suite, in lines, and whether all tests ended alike."""
    lines = [f"{name} {version(name)}"]
    for how, found in (("without register()", alone), ("with register()", registered)):
        counts = ", ".join(f"{n} {word}" for word, n in sorted(Counter(found.values()).items()))
        lines.append(f"  {how}: {counts}")
    for test in sorted(alone.keys() | registered.keys()):
        before, after = alone.get(test, "not run"), registered.get(test, "not run")
        if before != after:
            lines.append(f"  {test}: {before} without, {after} with")
    return "\n".join(lines), alone == registered


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both suites both ways; return 1 where they differ, 2 where there is no checkout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, help="of github.com/jeshraghian/snntorch")
    tests = parser.parse_args(arguments).checkout / "tests"
    if not tests.is_dir():
        print(f"{tests} is no folder; give a checkout of github.com/jeshraghian/snntorch")
        return 2
    alike = True
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        # Beside its tests a checkout has another snntorch, which would be imported in its place.
        shutil.copytree(tests, where / "tests")
        for name, adapter, suite in (
            ("snntorch", "snu_snntorch", ["tests"]),
            ("norse", "snu_norse", ["--pyargs", "norse"]),
        ):
            pair = (outcomes(who, suite, where) for who in ("-", adapter))
            said, same = compared(name, *pair)
            print(said, flush=True)
            alike &= same
    return 0 if alike else 1


if __name__ == "__main__":
    sys.exit(main())
