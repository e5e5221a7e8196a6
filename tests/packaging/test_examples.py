"""Every example runs and says what it shows."""

from pathlib import Path

import pytest

from few import few_of
from forked import Process, script

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))
SHOWN = {
    "01_snntorch_to_norse": " 0 differ in Norse",
    "02_a_chip_of_your_own": "no drift",
    "03_lightning": "20 steps at a time: 1.00 right",
    "04_somebody_elses_file": "snntorch by plugin importer: exact",
    "05_train_it_on": "written: True",
    "06_a_year_on_a_chip": "52,800 devices on 2 tiles",
    "07_tune_in_the_loop": "no worse: True",
    "08_make_it_fast": "the same spikes: True",
    "09_why_is_it_silent": "threshold 0.3: nothing is wrong",
    "10_neurobench": "ClassificationAccuracy",
}
NEEDS = {"03_lightning": "pytorch_lightning", "10_neurobench": "neurobench"}


SLOW = {"04_somebody_elses_file", "07_tune_in_the_loop", "08_make_it_fast"}
"""Examples over 3 s; ``.ci/run`` runs them, too."""


@pytest.mark.parametrize(
    "path",
    few_of(EXAMPLES, *(path for path in EXAMPLES if path.stem not in SLOW)),
    ids=lambda path: path.stem,
)
def test_example(path: Path, tmp_path: Path) -> None:
    if path.stem in NEEDS:
        pytest.importorskip(NEEDS[path.stem])
    ran = Process(script(path), folder=tmp_path, ours=True)
    assert ran.wait() == 0, ran.err
    assert SHOWN[path.stem] in ran.out
    assert not list(tmp_path.iterdir())
