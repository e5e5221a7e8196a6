"""Wrong uses of the command line: each is one line that says what is accepted, exit 2, no trace."""

from __future__ import annotations

import shlex
from pathlib import Path

import nir
import numpy as np
import pytest

from snu_plugin import cli, graph
from snu_plugin.graph import encode_snu, stamp
from snu_plugin.neuron import SNUConfig

DT = 2.0**-10


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a graph of 4 inputs and 6 outputs, ``g.nir``, and data that fit, or not."""
    folder = tmp_path_factory.mktemp("place")
    draw = np.random.default_rng(0)
    nodes = {
        "in": nir.Input({"input": np.array([4])}),
        "fc": nir.Linear(draw.normal(size=(6, 4))),
        "snu": encode_snu(SNUConfig(), 0.8, np.ones(6), dt=DT),
        "out": nir.Output({"output": np.array([6])}),
    }
    edges = [("in", "fc"), ("fc", "snu"), ("snu", "out")]
    graph.write(folder / "g.nir", stamp(nir.NIRGraph(nodes, edges), DT))
    x, labels = draw.random((8, 12, 4)) < 0.4, draw.integers(0, 6, 12)
    data: dict[str, dict[str, object]] = {
        "d": {"x": x, "labels": labels},
        "nolabels": {"x": x},
        "wide": {"x": np.zeros((8, 12, 5)), "labels": labels},
        "high": {"x": x, "labels": labels + 10},
        "few": {"x": x, "labels": labels[:5]},
        "half": {"x": x, "labels": labels + 0.5},
        "nan": {"x": np.where(np.arange(4) == 1, np.nan, x), "labels": labels},
        "text": {"x": x.astype(str), "labels": labels},
        "empty": {},
        "notime": {"x": np.zeros((0, 12, 4)), "labels": labels},
    }
    for name, arrays in data.items():
        np.savez(folder / f"{name}.npz", **arrays)  # type: ignore[arg-type]
    np.save(folder / "a.npy", x)
    (folder / "folder").mkdir()
    files = {
        "t.txt": "no data",
        "file": "x",
        "nothing.nir": "",
        "unknown.toml": "adc_bit = 6\n",
        "words.toml": 'adc_bits = "six"\n',
        "broken.toml": "= 3",
    }
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


WRONG = {
    "": "required: COMMAND",
    "nonsense": "COMMAND is 'nonsense'; give one of demo, verify",
    "verfiy g.nir": "the nearest is verify",
    "demo --epochs zero": "--epochs is 'zero'; give a whole number",
    "demo --epochs": "--epochs: expected one argument",
    "demo --epochs 0": "epochs is 0; it must be at least 1",
    "demo --seed x": "--seed is 'x'; give a whole number",
    "demo --epoch 3 --outt x": "'--outt' is not known here; the nearest is --out",
    "demo extra": "'extra' is not known here",
    "demo --data nowhere.mat": "nowhere.mat is not a file; give the path",
    "demo --data t.txt": "expected ac0e",
    "demo --data folder": "folder is not a file",
    "demo --out file": "--out is file; give a folder",
    "demo --resume --out new": "holds no checkpoint; leave out --resume",
    "verify": "required: GRAPH",
    "verify nowhere.nir": "nowhere.nir is not a file; give the path of a .nir file",
    "verify folder": "folder is not a file",
    "verify t.txt": "is not an HDF5 file",
    "verify nothing.nir": "is not an HDF5 file",
    "verify g.nir nowhere.npz": "nowhere.npz: no such file; give",
    "verify g.nir wide.npz": "x has shape (8, 12, 5); it must be (T, B, 4)",
    "verify g.nir t.txt": "t.txt: unknown kind of data; give",
    "verify g.nir empty.npz": "must be named x",
    "verify g.nir notime.npz": "T and B at least 1",
    "verify g.nir nan.npz": "are not finite; give numbers",
    "verify g.nir text.npz": "it must be numbers",
    "verify g.nir --simulators norsee": "no adapter 'norsee'; installed: ",
    "verify g.nir --simulators ''": "no adapter ''",
    "verify g.nir --dt 0": "dt is 0.0; it must be a positive number of seconds",
    "verify g.nir --dt nan": "dt is nan",
    "verify g.nir --dt fast": "--dt is 'fast'; give a number",
    "verify g.nir --feedback silence": "the nearest is silent",
    "verify g.nir --picture nowhere/p.png": "its folder does not exist, make it first",
    "verify g.nir --jsn": "the nearest is --json",
    "map": "required: GRAPH",
    "map g.nir --chip PCMM": "no chip and no file 'PCMM'; give IDEAL, PCM",
    "map g.nir --chip folder": "no chip and no file 'folder'",
    "map g.nir --chip unknown.toml": "did you mean adc_bits?",
    "map g.nir --chip words.toml": "adc_bits is 'six'; it must be a whole number",
    "map g.nir --chip broken.toml": "not TOML",
    "map g.nir --activity 2": "activity is 2.0; it must be a number in [0, 1]",
    "map g.nir --activity nan": "activity is nan",
    "map g.nir --steps 0": "steps is 0",
    "map g.nir --steps 1.5": "--steps is '1.5'; give a whole number",
    "map g.nir --out file": "--out is file; give a folder",
    "map g.nir --dt inf": "dt is inf",
    "map g.nir wide.npz": "it must be (T, B, 4)",
    "run g.nir": "required: DATA",
    "run d.npz g.nir": "d.npz: is not an HDF5 file",
    "run g.nir nowhere.npz": "no such file; give",
    "run g.nir nolabels.npz": "labels is not",
    "run g.nir wide.npz": "it must be (T, 12, 4)",
    "run g.nir high.npz": "they must lie in [0, 5]",
    "run g.nir few.npz": "it must be (T, 5, 4)",
    "run g.nir half.npz": "give whole numbers",
    "run g.nir nan.npz": "it must be finite numbers",
    "run g.nir a.npy": "unknown kind of data; give",
    "run g.nir d.npz --at soon": "age 'soon' is not a number with a unit; give ages such as",
    "run g.nir d.npz --at ''": "age '' is not a number with a unit",
    "run g.nir d.npz --at -1h": "--at: expected one argument",
    "run g.nir d.npz --at 1s": "age 1s is too early: PCM is first read 20 s after",
    "run g.nir d.npz --chips 0": "chips is 0; it must be at least 1",
    "run g.nir d.npz --reads -1": "reads is -1; it must be at least 1",
    "run g.nir d.npz --jobs 0": "jobs is 0; give a number of processes",
    "run g.nir d.npz --out nowhere/s.json": "its folder does not exist, make it first",
    "run g.nir d.npz --out file": "--out is file; give a folder, or a file that ends in",
    "run g.nir d.npz --resume": "--resume is given without --out",
    "run g.nir d.npz --resume --out s.csv": "holds no checkpoint; leave out --resume",
    "life g.nir d.npz --for soon": "age 'soon' is not a number with a unit",
    "life g.nir d.npz --for 1d": "has no visit",
    "life g.nir d.npz --every 0d": "every is 0.0; it must be a positive number",
    "life g.nir d.npz --every 1d,2d": "every is '1d,2d'; give one age",
    "life g.nir d.npz --do pray": "nothing to do is called 'pray'; give none, calibrate",
    "life g.nir d.npz --when nan": "when is nan; it must be a positive number",
    "life g.nir d.npz --chips 0": "chips is 0",
    "life g.nir d.npz --seed -1": "seed is -1",
    "life g.nir d.npz --out file": "--out is file; give a folder",
    "life g.nir d.npz --report nowhere/r.html": "its folder does not exist, make it first",
    "life g.nir d.npz --resume --out new": "holds no checkpoint; leave out --resume",
    "tune g.nir": "required: DATA",
    "tune g.nir d.npz --rule digitl": "no way 'digitl' to change a chip; give",
    "tune g.nir d.npz --rule mixed --lr -1": "lr is -1.0; it must be a positive number",
    "tune g.nir d.npz --rule digital --lr 0.1": "takes no number; 0.1 was given, leave it out",
    "tune g.nir d.npz --epochs 0": "epochs is 0; it must be at least 1",
    "tune g.nir d.npz --at 1h,1d": "at is '1h,1d'; give one age, such as 1d",
    "tune g.nir d.npz --seed -1": "seed is -1; it must be a whole number of at least 0",
    "tune g.nir d.npz --out g.nir": "the graph would be overwritten, give another file",
    "tune g.nir d.npz --out nowhere/t.nir": "its folder does not exist, make it first",
    "tune g.nir d.npz --resume --out t.nir": "does not exist; leave out --resume",
    "tune g.nir d.npz --compare --ways nothing": "no way nothing; give",
    "reproduce jbs --data d.npz": "no task 'jbs'; there are jsb, mnist",
    "reproduce jsb": "required: --data",
    "reproduce jsb --data nowhere.mat": "nowhere.mat is not a file",
    "reproduce jsb --data d.npz": "--no-verify",
    "reproduce jsb --unit snuu --data d.npz": "no recipe for 'snuu' on jsb; there are snu",
    "reproduce jsb --recipe plane --data d.npz": "no recipe 'plane' on jsb; there are plain",
    "reproduce jsb --optimizer sdg --data d.npz": "no optimizer 'sdg'; there are sgd",
    "reproduce jsb --lr nan --data d.npz": "lr is nan; it must be above 0",
    "reproduce jsb --seeds 1,1 --data d.npz": "give distinct numbers",
    "reproduce jsb --seeds a --data d.npz": "seeds are 'a'; give whole numbers",
    "reproduce jsb --bits 2.5 --data d.npz": "bits are '2.5'; give whole numbers",
    "reproduce jsb --unit lstm --chip PCM --data d.npz": "cannot be followed on a chip",
    "reproduce mnist --data folder": "give the folder with the four files",
    "reproduce ptb --data nowhere": "give the folder with train, valid and test",
    "reproduce jsb --resume --data d.npz": "leave out --resume",
    "bench neurons": "the nearest is neuron",
    "bench neuron g.nir": "g.nir is given; that is for snu bench simulators, leave it out",
    "bench chip --only snu": "--only is given; that is for snu bench neuron",
    "bench chip --threads 2": "--threads is given; that is for snu bench neuron and snu",
    "bench simulators --parts layers": "that is for snu bench neuron and snu bench chip",
    "bench chip --device tpu": "it must be cpu, or cuda where torch finds one",
    "bench chip --parts layer": "part 'layer' is unknown; the parts: layers",
    "map g.nir --outliers 2": "outliers is 2.0; it must be a share of at least 0 and below 1",
    "map g.nir --outliers nan": "outliers is nan; it must be a share",
    "run g.nir d.npz --outliers few": "--outliers is 'few'; give a number",
    "map g.nir --report folder": "--report is folder, a folder; give a file",
    "doctor nowhere.nir": "nowhere.nir is not a file; give the path of a .nir file",
    "doctor g.nir wide.npz": "it must be (T, B, 4)",
    "doctor g.nir nan.npz": "are not finite; give finite numbers",
    "doctor g.nir t.txt": "t.txt: unknown kind of data; give",
    "zoo put": "what is 'put'; give one of list, get",
    "zoo get": "no network is named; give one of",
    "zoo get nothing": "no network 'nothing' in the zoo; there are",
    "zoo get jsb-snu --out nowhere/x.nir": "nowhere is not a folder; create it first",
    "docs nothing": "'nothing' is not known here",
    "tune g.nir d.npz --loss nothing": "no loss 'nothing'; give rate, membrane",
    "tune g.nir d.npz --metric nothing": "no metric 'nothing'; give rate",
    "tune g.nir d.npz --teacher nowhere.nir": "nowhere.nir is not a file",
    "tune g.nir d.npz --rule mixed,digitl": "no way 'digitl' to change a chip; give",
    "bench neuron --seconds 0": "seconds is 0.0; it must be a positive number",
    "bench neuron --threads two": "--threads is 'two'; give a whole number",
    "bench neuron --only nobody": "no candidate 'nobody'; the candidates: ",
    "bench neuron --parts nothing": "part 'nothing' is unknown; the parts: layers",
    "bench neuron --device tpu": "it must be cpu, or cuda where torch finds one",
    "bench simulators g.nir t.txt": "not an .npy of plain values",
    "simulators install": "install takes the name of a simulator, and none is given",
    "simulators remove nothing": "no simulator 'nothing'; it must be one of",
    "simulators update brian": "give one of install, remove",
    "info --chip PCMM": "no chip and no file 'PCMM'; give IDEAL, PCM",
    "info --out x": "but of which chip? give --chip as well",
}
"""What is typed after ``snu``, and what the line says."""


def test_so_many_wrong_uses_are_tried() -> None:
    assert len(WRONG) >= 90


@pytest.mark.parametrize(("typed", "said"), WRONG.items(), ids=WRONG)
def test_a_wrong_use_is_one_helpful_line_exit_2_and_leaves_nothing(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    typed: str,
    said: str,
) -> None:
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    try:
        status = cli.main(shlex.split(typed))
    except SystemExit as left:  # argparse
        status = int(left.code or 0)
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith("snu")
    assert err.count("\n") == 1, err
    assert said in err
    assert sorted(place.rglob("*")) == before
