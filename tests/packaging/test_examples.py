"""Every example runs and says what it shows."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))
SHOWN = {
    "01_snntorch_to_norse": " 0 differ in Norse",
    "02_a_chip_of_your_own": "no drift",
    "03_lightning": "20 steps at a time: 1.00 right",
}
NEEDS = {"03_lightning": "pytorch_lightning"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path: Path, tmp_path: Path) -> None:
    if path.stem in NEEDS:
        pytest.importorskip(NEEDS[path.stem])
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr
    assert SHOWN[path.stem] in ran.stdout
    assert not list(tmp_path.iterdir())
