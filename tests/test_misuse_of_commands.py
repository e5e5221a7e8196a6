"""Wrong uses of the command line: each is one line that says what is accepted, exit 2, no trace."""

from __future__ import annotations

import gzip
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
        "batchfirst": {"x": x.swapaxes(0, 1), "labels": labels},
        "complex": {"x": x.astype(complex), "labels": labels},
        "onehot": {"x": x, "labels": np.eye(6)[labels]},
        "below": {"x": x, "labels": labels - 7},
        "inf": {"x": np.where(x, np.inf, 0.0), "labels": labels},
        "scalar": {"x": 3.0, "labels": 1},
        "flat": {"x": x.reshape(8, -1), "labels": labels},
        "Names": {"X": x, "Labels": labels},
        "train": {"train_x": x, "train_labels": labels},
        "words": {"x": x, "labels": np.array(["a"] * 12)},
        "one": {"x": x[:, :1], "labels": labels[:1]},
    }
    for name, arrays in data.items():
        np.savez(folder / f"{name}.npz", **arrays)  # type: ignore[arg-type]
    np.savez(folder / "objects.npz", x=np.array([1, None], dtype=object), labels=labels)
    np.save(folder / "a.npy", x)
    for name in ("folder", "out.json", "folder.nir", "folder.npz"):
        (folder / name).mkdir()
    whole = (folder / "g.nir").read_bytes()
    raw = {
        "cut.nir": whole[: len(whole) // 2], "packed.nir": gzip.compress(whole),
        "model.pt": b"PK\x03\x04 of torch", "latin.toml": 'like = "PCM" # é'.encode("latin1"),
        "array.nir": (folder / "a.npy").read_bytes(), "cut.npz": b"PK\x03\x04", "none.npz": b"",
        "none.mat": b"", "none.npy": b"", "old.pt": b"\x80\x02}q\x00.",
    }  # fmt: skip
    for name, bytes_ in raw.items():
        (folder / name).write_bytes(bytes_)
    files = {
        "t.txt": "no data",
        "file": "x",
        "nothing.nir": "",
        "unknown.toml": "adc_bit = 6\n",
        "words.toml": 'adc_bits = "six"\n',
        "broken.toml": "= 3",
        "page.nir": "<html><body>404</body></html>",
        "data.json": '{"x": [1]}',
        "data.csv": "0,1\n",
        "twice.toml": "adc_bits = 6\nadc_bits = 7\n",
        "like.toml": 'like = "PCMX"\n',
        "below.toml": 'like = "PCM"\ng_max_us = -3\n',
        "nan.toml": 'like = "PCM"\ng_max_us = nan\n',
        "list.toml": 'like = "PCM"\nadc_bits = [1, 2]\n',
        "huge.toml": 'like = "PCM"\nadc_bits = 999999999999\n',
        "table.toml": "[chip]\nadc_bits = 6\n",
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
OTHERS = {
    "VERIFY g.nir": "the nearest is verify",
    "verify,map g.nir": "the nearest is verify",
    "verify packed.nir": "packed by gzip: unpack it first",
    "verify d.npz": "but a zip archive, such as an .npz of data",
    "verify model.pt": "but a zip archive, such as an .npz of data or what torch.save leaves",
    "verify old.pt": "is not an HDF5 file, but a pickle",
    "verify data.json": "is not an HDF5 file, but JSON",
    "verify page.nir": "a web page or XML: a download that went wrong",
    "verify array.nir": "but an array of numpy; give a .nir file",
    "verify cut.nir": "is truncated, its writing broken off",
    "verify folder.nir": "folder.nir is not a file",
    "verify ''": "GRAPH: no path is given, but an empty text",
    "verify ' '": "GRAPH: no path is given, but an empty text",
    "verify /dev/null": "/dev/null is not a file",
    "verify file/g.nir": "file/g.nir is not a file",
    "verify -- --json.nir": "--json.nir is not a file",
    "verify --graph g.nir": "'--graph' is not known here",
    "verify -v g.nir": "'-v' is not known here",
    "verify g.nir d.npz more": "'more' is not known here",
    "verify g.nir g.nir": "/nodes is missing: another kind of file",
    "verify g.nir model.pt": "such as numpy.savez makes",
    "verify g.nir data.json": "data.json: unknown kind of data",
    "verify g.nir data.csv": "data.csv: unknown kind of data",
    "verify g.nir none.npz": "not an .npz of plain arrays, or damaged",
    "verify g.nir cut.npz": "not an .npz of plain arrays, or damaged",
    "verify g.nir folder.npz": "folder.npz: no such file",
    "verify g.nir complex.npz": "x is complex128 of shape (8, 12, 4); it must be numbers",
    "verify g.nir objects.npz": "an array is object of shape (2,); it must be plain values",
    "verify g.nir scalar.npz": "x is float64 of shape (); it must be numbers (T, N, ...)",
    "verify g.nir flat.npz": "x has shape (8, 48); it must be (T, B, 4)",
    "verify g.nir Names.npz": "holds X, Labels; inputs (T, N, ...) must be named x",
    "verify g.nir inf.npz": "are not finite; give numbers",
    "verify g.nir ''": "DATA: no path is given, but an empty text",
    "verify g.nir --dt=": "--dt is ''; give a number",
    "verify g.nir --dt 1ms": "--dt is '1ms'; give a number",
    "verify g.nir --dt 1e400": "--dt is inf; it must be a positive number of seconds",
    "verify g.nir --dt -0.001": "--dt is -0.001; it must be a positive number of seconds",
    "verify g.nir --dt 1,5": "--dt is '1,5'; give a number",
    "verify g.nir --dt 1": "give a smaller --dt, or check the unit of the graph",
    "verify g.nir --simulators snntorch,,norse": "no adapter ''; installed: ",
    "verify g.nir --simulators all": "no adapter 'all'; installed: ",
    "verify g.nir --picture folder": "--picture is folder, a folder; give a file",
    "verify g.nir --report ''": "--report: no path is given, but an empty text",
    "verify g.nir --report /proc/r.html": "nothing can be written there",
    "map g.nir --chip ''": "no chip and no file ''",
    "map g.nir --chip PCM,IDEAL": "no chip and no file 'PCM,IDEAL'",
    "map g.nir --chip twice.toml": "twice.toml: not TOML (Cannot overwrite a value",
    "map g.nir --chip like.toml": "like is 'PCMX'; it must be one of IDEAL, PCM",
    "map g.nir --chip latin.toml": "latin.toml: not TOML",
    "map g.nir --chip below.toml": "below.toml: g_max_us is -3; it must be a positive number",
    "map g.nir --chip nan.toml": "g_max_us is nan",
    "map g.nir --chip list.toml": "adc_bits is [1, 2]; it must be a whole number from 2 to 16",
    "map g.nir --chip huge.toml": "adc_bits is 999999999999; it must be a whole number",
    "map g.nir --chip table.toml": "unknown field 'chip'",
    "map g.nir --chip g.nir": "g.nir: not TOML",
    "map g.nir --steps 1e3": "--steps is '1e3'; give a whole number",
    "map g.nir --activity 50%": "--activity is '50%'; give a number",
    "map g.nir --outliers 1": "--outliers is 1.0; it must be a share of at least 0 and below 1",
    "map g.nir --out ''": "--out: no path is given, but an empty text; give one, or .",
    "map g.nir --out /proc/plan": "/proc/plan: No such file or directory; give",
    "map g.nir --out plan.json": "--out is plan.json, the name of a file; give a folder",
    "map g.nir --o x": "--o could match --outliers, --out",
    "run g.nir batchfirst.npz": "time comes first: give x.swapaxes(0, 1)",
    "run g.nir onehot.npz": "labels are float64 of shape (12, 6); give whole numbers (N,)",
    "run g.nir below.npz": "they must lie in [0, 5]",
    "run g.nir inf.npz": "it must be finite numbers",
    "run g.nir words.npz": "give whole numbers (N,)",
    "run g.nir Names.npz": "x and labels must both be there",
    "run g.nir train.npz": "x and labels must both be there",
    "run g.nir d.npz --at 1h,,1d": "age '' is not a number with a unit",
    "run g.nir d.npz --at inf": "age 'inf' is not a number with a unit",
    "run g.nir d.npz --at=-1d": "age '-1d' is not a number with a unit",
    "run g.nir d.npz --chips 1.0": "--chips is '1.0'; give a whole number",
    "run g.nir d.npz --scheduler nowhere": "give the address of a Dask scheduler",
    "run g.nir d.npz --out out.json": "--out is out.json, a folder; give a file",
    "run g.nir d.npz --out scores.png": "the name of a file; give a folder, or a file that ends in",
    "run g.nir d.npz --teacher d.npz": "d.npz: is not an HDF5 file",
    "run g.nir d.npz --loss population:0": "population takes 0 classes",
    "run g.nir d.npz --loss likelihood": "--loss is 'likelihood' and labels are classes",
    "run g.nir d.npz --metric teacher": "--metric is 'teacher' and there is none",
    "life g.nir d.npz --every nan": "age 'nan' is not a number with a unit",
    "life g.nir d.npz --do none,none": "--do is none,none; give every name once",
    "life g.nir d.npz --do calibrate@": "age '' is not a number with a unit",
    "life g.nir d.npz --do adapter:0": "rank of adapter is 0; it must be a positive whole number",
    "life g.nir d.npz --when 0": "--when is 0.0; it must be a positive number",
    "life g.nir d.npz --out life.json": "the name of a file; give a folder",
    "tune g.nir d.npz --rule ''": "no way '' to change a chip; give",
    "tune g.nir d.npz --rule mixed:x": "mixed:x needs a number behind the colon",
    "tune g.nir d.npz --rule mixed,pulses": "MixedPrecision(lr=3.0",
    "tune g.nir d.npz --digital-lr inf": "--digital-lr is inf; it must be a number of at least 0",
    "tune g.nir d.npz --seed 99999999999999999999": "and below 2**63",
    "tune g.nir d.npz --out tuned.json": "give a folder, or a file that ends in .nir",
    "tune g.nir one.npz": "or at least 5 sequences to divide",
    "tune g.nir d.npz --compare --ways ''": "no way ; give",
    "tune g.nir d.npz --compare --out c.txt": "the name of a file; give a folder, or",
    "reproduce jsb --data ''": "--data: no path is given, but an empty text",
    "reproduce jsb --data d.npz --seeds 1-3": "--seeds are '1-3'; give whole numbers",
    "reproduce jsb --data d.npz --bits 0": "--bits are 0; give distinct numbers from 2 to 16",
    "bench neuron --threads 100000": "the cores here",
    "bench simulators g.nir none.npy": "none.npy: not an .npy of plain values",
    "doctor folder.nir": "folder.nir is not a file",
    "doctor g.nir none.npz": "not an .npz of plain arrays",
    "zoo get JSB-SNU": "did you mean jsb-snu?",
    "zoo get jsb-snu --out /proc/x.nir": "/proc: No such file or directory",
    "demo --out snu.html": "the name of a file; give a folder",
    "demo --seed -1": "--seed is -1; it must be a whole number of at least 0",
}
WRITTEN_FROM_THE_HELP = {
    "verify g.nir --picture out.xyz": "--picture is out.xyz; give a file that ends in .png",
    "verify g.nir --json=yes": "--json takes no value; 'yes' was given, leave it out",
    "run g.nir d.npz --resume=yes --out o": "--resume takes no value; 'yes' was given",
    "tune g.nir d.npz --ways digital": "--ways is given; that is for --compare",
    "tune g.nir d.npz --chips 5": "--chips is given; that is for --compare",
    "bench chip --parts ''": "part '' is unknown; the parts: layers",
    "bench": "required: what; what is one of neuron, simulators, chip",
    "run g.nir d.npz --chips 1000000000000": "it must be at least 1 and at most 100000",
    "life g.nir d.npz --reads 1000000000000": "it must be at least 1 and at most 100000",
    "tune g.nir d.npz --compare --chips 1000000000000": "it must be at least 1 and at most 100000",
}
WRONG |= OTHERS | WRITTEN_FROM_THE_HELP
"""What is typed after ``snu``, and what the line says."""


def test_so_many_wrong_uses_are_tried() -> None:
    assert len(WRONG) >= 200


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
