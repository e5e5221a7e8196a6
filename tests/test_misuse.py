"""Wrong uses from Python: each is answered by what was given and what is accepted."""

# mypy: disable-error-code="arg-type, call-arg, dict-item, list-item, call-overload"

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import Tensor

import snu_plugin as sp
import snu_snntorch as st
from snu_plugin import graph, plot, zoo
from snu_plugin.accelerator import IDEAL, PCM, Accelerator, dump_chip, find_chip
from snu_plugin.compiler import compile, plan
from snu_plugin.hil import (
    Adapter,
    MixedPrecision,
    ProgramVerify,
    Refresh,
    Rewrite,
    SignPulses,
    ThinnedPulses,
    fine_tune,
    hardware_aware,
)
from snu_plugin.tasks import chorales

X = torch.ones(5, 2, 3)
NAN = math.nan


def network() -> nir.NIRGraph:
    ones = np.ones(4)
    neurons = nir.LIF(tau=ones * 2, r=ones * 2, v_leak=0 * ones, v_threshold=ones, v_reset=0 * ones)
    affine = nir.Affine(np.ones((4, 3)), np.zeros(4))
    return graph.stamp(nir.NIRGraph.from_list(affine, neurons), 1.0)


@cache
def chip() -> Accelerator:
    made = Accelerator(compile(network(), IDEAL), seed=0)
    made.program()
    return made


def filled(value: float, *shape: int) -> Tensor:
    return torch.full(shape or (4, 3), value)


def with_nan() -> Tensor:
    x = X.clone()
    x[1, 0, 2] = NAN
    return x


@cache
def with_part(part: Any) -> torch.nn.Module:
    net = torch.nn.Linear(3, 4)
    net.part = part
    return net


def accelerated() -> Any:
    snn = pytest.importorskip("snntorch")
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), snn.Leaky(beta=0.9, init_hidden=True))
    return sp.accelerate(net, X[0])


def aware(**settings: Any) -> None:
    with hardware_aware(torch.nn.Linear(3, 4), PCM, **settings) as training:
        training.noise  # noqa: B018


def entered(net: Any, settings: Any) -> None:
    with hardware_aware(net, settings):
        pass


def tune(batches: Any = ((X, 0), (0 * X, 0)), loss: Any = lambda y, t: y.sum(), **more: Any) -> Any:
    return fine_tune(chip(), batches, loss, **{"hold_back": 0, **more})


NEURONS: dict[str, Callable[[], Any]] = {
    "decay is nan": lambda: sp.SNUConfig(decay=NAN),
    "decay is '0.8'": lambda: sp.SNUConfig(decay="0.8"),
    "threshold is inf": lambda: sp.SNUConfig(threshold=math.inf),
    "g is 'rely'": lambda: sp.SNUConfig(g="rely"),
    "soft is 'yes'": lambda: sp.SNUConfig(soft="yes"),
    "surrogate is 3": lambda: sp.SNUConfig(surrogate=3),
    "features is -1": lambda: sp.SNU(-1),
    "features is 2.5": lambda: sp.SNU(2.5),
    "features is '3'": lambda: sp.SNU("3"),
    "config is dict": lambda: sp.SNU(3, config={"decay": 0.5}),
    "x has shape (5, 2, 3)": lambda: sp.SNU(4)(X),
    "x has shape (3,)": lambda: sp.SNU(3)(X[0, 0]),
    "x has dtype torch.int64": lambda: sp.SNU(3)(X.long()),
    "x has dtype torch.complex64": lambda: sp.SNU(3)(X.to(torch.complex64)),
    "x is list": lambda: sp.SNU(3)(X.tolist()),
    "x is ndarray": lambda: sp.sSNU(3)(X.numpy()),
    "state is tuple": lambda: sp.SNU(3)(X, (X[0], X[0])),
    "state is Tensor": lambda: sp.SNU(3)(X, X[0]),
    "state has shapes": lambda: sp.SNU(3)(X, sp.State(X[0, :1], X[0])),
    "impl is 'numbas'": lambda: sp.snu_scan(X, impl="numbas"),
    "decay has shape (7,)": lambda: sp.snu_scan(X, decay=torch.ones(7)),
    "recurrent has shape (3, 4)": lambda: sp.snu_scan(X, recurrent=torch.ones(3, 4)),
}
GRAPHS: dict[str, Callable[[], Any]] = {
    "sample is list": lambda: graph.to_nir(torch.nn.Linear(3, 4), [1, 2], dt=1.0),
    "sample is str": lambda: graph.to_nir(torch.nn.Linear(3, 4), "x", dt=1.0),
    "model is str": lambda: graph.to_nir("net", X, dt=1.0),
    "dt is -1": lambda: graph.to_nir(torch.nn.Linear(3, 4), X, dt=-1),
    "graph is a int": lambda: graph.check(3),
    "dt is nan": lambda: graph.network(network(), dt=NAN),
    "dt is '1ms'": lambda: graph.network(network(), dt="1ms"),
    "feedback is 'silence'": lambda: graph.network(network(), feedback="silence"),
    "x for Input 'input' is list": lambda: graph.network(network())([1, 2]),
    "x for Input 'input' has shape (5, 2, 9)": lambda: graph.network(network())(filled(1, 5, 2, 9)),
    "x is given for 'inpt'": lambda: graph.network(network())({"inpt": X}),
    "no simulator 'snntorhc'": lambda: graph.verify(network(), X, simulators=["snntorhc"]),
    "x of 'input' is str": lambda: graph.to_data("x", 1e-3),
    "nowhere.nir is not a file": lambda: graph.read("nowhere.nir"),
    "path is None": lambda: graph.read(None),
}
CHIPS: dict[str, Callable[[], Any]] = {
    "adc_bits is 6.5": lambda: replace(PCM, adc_bits=6.5),
    "adc_bits is True": lambda: replace(PCM, adc_bits=True),
    "g_max_us is -1.0": lambda: replace(PCM, g_max_us=-1.0),
    "device is 'pcn'": lambda: replace(PCM, device="pcn"),
    "no chip and no file 'pmc'": lambda: find_chip("pmc"),
    "chip is 'PCM'": lambda: compile(network(), "PCM"),
    "scaling is 'columns'": lambda: compile(network(), PCM, scaling="columns"),
    "chip names 'fc9'": lambda: compile(network(), {"fc9": PCM, "default": PCM}),
    "holds 1 values that are not finite": lambda: compile(network(), PCM, sample=with_nan()),
    "seed is -1": lambda: Accelerator(compile(network(), PCM), seed=-1),
    "seed is True": lambda: Accelerator(compile(network(), PCM), seed=True),
    "program is NIRGraph": lambda: Accelerator(network()),
    "the chip holds no weights yet": lambda: Accelerator(compile(network(), PCM)).run(X),
    "seconds is -1": lambda: chip().wait(-1),
    "seconds is nan": lambda: chip().wait(NAN),
    "seconds is inf": lambda: chip().wait(math.inf),
    "seconds is '1d'": lambda: chip().wait("1d"),
    "input input holds 1 values": lambda: chip().run(with_nan()),
    "input input has shape (5, 3)": lambda: chip().run(X[:, 0]),
    "input input is str": lambda: chip().run("x"),
    "counts of affine are not whole": lambda: chip().pulse({"affine": filled(0.5)}),
    "up to 1000000": lambda: chip().pulse({"affine": filled(1e30)}),
    "counts of affine": lambda: chip().pulse({"affine": filled(NAN)}),
    "affine is given int": lambda: chip().pulse({"affine": 1}),
    "no crossbar other": lambda: chip().pulse({"other": filled(1)}),
    "targets of affine hold": lambda: chip().write({"affine": filled(NAN)}),
    "larger than its devices hold": lambda: chip().write({"affine": filled(1e9)}),
    "where of affine": lambda: chip().write({"affine": filled(0)}, {"affine": filled(1)}),
    "pairs of affine holds values between": lambda: chip().reset({"affine": filled(0.5)}),
    "register affine.gain": lambda: chip().set_registers({"affine.gain": filled(NAN, 4)}),
    "no register affine.gian": lambda: chip().set_registers({"affine.gian": filled(1, 4)}),
    "affine.gain is given list": lambda: chip().set_registers({"affine.gain": [1, 2, 3, 4]}),
    "scope is 'columns'": lambda: chip().calibrate("columns"),
    "probe_count is 0": lambda: chip().calibrate(probe_count=0),
    "reads is -1": lambda: chip().calibrate(reads=-1),
    "reads is 0": lambda: chip().remember(0),
    "reads is 1.5": lambda: chip().to_nir(reads=1.5),
    "is not a folder": lambda: chip().save(Path("nowhere") / "chip.npz"),
    "none.npz": lambda: Accelerator.load("none.npz"),
}
LOOPS: dict[str, Callable[[], Any]] = {
    "lr is -1": lambda: MixedPrecision(lr=-1),
    "lr is nan": lambda: ProgramVerify(lr=NAN),
    "evidence is -3": lambda: MixedPrecision(evidence=-3),
    "eps_us is 0": lambda: MixedPrecision(eps_us=0),
    "threshold is -1": lambda: SignPulses(threshold=-1),
    "most is 0.5": lambda: ProgramVerify(most=0.5),
    "every is 0": lambda: Refresh(every=0),
    "above is -1": lambda: Refresh(above=-1),
    "batches holds none": lambda: fine_tune(chip(), [], lambda y, t: y.sum()),
    "batches holds Tensor": lambda: tune([X, X + 1]),
    "rule holds the class MixedPrecision": lambda: tune(rule=MixedPrecision),
    "rule holds the text 'mixed'": lambda: tune(rule="mixed"),
    "digital_lr is -1": lambda: tune(digital_lr=-1),
    "digital_lr is nan": lambda: tune(digital_lr=NAN),
    "read_every is 0": lambda: tune(read_every=0),
    "host_s is -0.1": lambda: tune(host_s=-0.1),
    "hold_back is 1.5": lambda: tune(hold_back=1.5),
    "no loss 'rates'": lambda: tune(loss="rates"),
    "the loss returned float": lambda: tune(loss=lambda y, t: 1.0),
    "the loss returned (5, 2, 4)": lambda: tune(loss=lambda y, t: y),
    "input input has shape (5, 2, 9)": lambda: tune([(filled(v, 5, 2, 9), 0) for v in (0, 1)]),
}
OF_ANOTHER_KIND: dict[str, Callable[[], Any]] = {
    "scope is Tensor of shape (5, 2, 3)": lambda: chip().calibrate(X),
    "method is ndarray of shape (5, 2, 3)": lambda: chip().calibrate(method=X.numpy()),
    "decay is Tensor of shape (4,)": lambda: sp.SNUConfig(decay=torch.ones(4)),
    "g is Tensor of shape (4,)": lambda: sp.SNUConfig(g=torch.ones(4)),
    "lateral_inhibition is Tensor of shape (4,)": lambda: sp.SNUConfig(
        lateral_inhibition=torch.ones(4)
    ),
    "features is Tensor of shape (5, 2, 3)": lambda: sp.SNU(X),
    "impl is Tensor of shape (5, 2, 3)": lambda: sp.snu_scan(X, impl=X),
    "seconds is Tensor of shape (5, 2, 3)": lambda: chip().wait(X),
    "rank is Tensor of shape (4,)": lambda: Adapter(rank=torch.ones(4)),
    "rank is '8'": lambda: Adapter(rank="8"),
    "where is 'last'": lambda: Adapter(where="last"),
    "worst is '0.1'": lambda: Rewrite(worst="0.1"),
    "reads is Tensor of shape (2,)": lambda: Rewrite(reads=torch.ones(2)),
    "share is '1'": lambda: ThinnedPulses(share="1"),
    "hold_back is '0.5'": lambda: tune(hold_back="0.5"),
    "hold_back is Tensor of shape (4,)": lambda: tune(hold_back=torch.ones(4)),
    "every is '1'": lambda: aware(every="1"),
    "age_s is '1 d'": lambda: aware(age_s="1 d"),
    "limit is Tensor of shape (4,)": lambda: aware(limit=torch.ones(4)),
    "noise at progress 0.0 is 'small'": lambda: aware(noise="small"),
    "scaling is Tensor of shape (4,)": lambda: compile(network(), PCM, scaling=torch.ones(4)),
    "activity is '0.1'": lambda: plan(network(), PCM, activity="0.1"),
    "steps is '10'": lambda: plan(network(), PCM, steps="10"),
    "outliers is Tensor of shape (4,)": lambda: compile(network(), PCM, outliers=torch.ones(4)),
    "adc_bits is Tensor of shape (4,)": lambda: replace(PCM, adc_bits=torch.ones(4)),
    "device is Tensor of shape (4,)": lambda: replace(PCM, device=torch.ones(4)),
    "reading is Tensor of shape (4,)": lambda: graph.discretise(network(), reading=torch.ones(4)),
    "dt is Tensor of shape (4,)": lambda: graph.stamp(network(), torch.ones(4)),
    "path is Tensor of shape (4,)": lambda: graph.read(torch.ones(4)),
    "average is Tensor of shape (4,)": lambda: chorales.nll(X, X, average=torch.ones(4)),
}
NAMES_AND_KINDS: dict[str, Callable[[], Any]] = {
    "state is 1; it must be a State": lambda: sp.snu_step(X[0], 1),
    "x is [1, 2]; it must be a tensor": lambda: sp.snu_step([1, 2]),
    "config is {'decay': 0.5}; it must": lambda: sp.snu_step(X[0], None, {"decay": 0.5}),
    "decay is 0.5; it must be a tensor": lambda: sp.snu_step(X[0], decay=0.5),
    "SNUConfig has no argument 'dcay'; did you mean decay?": lambda: sp.SNUConfig(dcay=0.8),
    "beta of snnTorch is decay here": lambda: sp.SNUConfig(beta=0.8),
    "no argument 'decay'; decay is beta here": lambda: st.SNU(decay=0.8),
    "makes one of a model": lambda: graph.verify(torch.nn.Linear(2, 2)),
    "x is missing; a model or a chip needs inputs": lambda: sp.diagnose(torch.nn.Linear(2, 2)),
    "give config=SNUConfig(decay=...)": lambda: sp.SNU(3, decay=0.8),
    "Chip has no argument 'adcbits'; did you mean adc_bits?": lambda: replace(PCM, adcbits=3),
    "MixedPrecision has no argument 'rate'": lambda: MixedPrecision(rate=1),
    "Refresh has no argument 'evry'; did you mean every?": lambda: Refresh(evry=1),
    "sample is None": lambda: sp.accelerate(torch.nn.Linear(3, 4), None),
    "1 of 30 values of sample are not": lambda: sp.accelerate(torch.nn.Linear(3, 4), with_nan()),
    "does not run on a sample of shape (5, 2, 9)": lambda: sp.accelerate(
        torch.nn.Linear(3, 4), filled(1, 5, 2, 9)
    ),
    "graph is a Network; it must be a nir.NIRGraph; its to_nir() gives one": lambda: graph.check(
        graph.network(network())
    ),
    "state is 3; it must be what an earlier call": lambda: graph.network(network())(X, 3),
    "counts is [1]; it must be a dict": lambda: chip().pulse([1]),
    "pairs is 'affine'; it must be a dict": lambda: chip().reset("affine"),
    "targets is [1]; it must be a dict": lambda: chip().write([1]),
    "where is True; it must be a dict": lambda: chip().write({"affine": filled(0)}, True),
    "values is None; it must be a dict": lambda: chip().set_registers(None),
    "teacher is 'g.nir'": lambda: tune(teacher="g.nir"),
    "chip is 'PCM'; it must be a Chip": lambda: dump_chip("PCM", "chip.toml"),
}
STEPS_AND_PRODUCTS: dict[str, Callable[[], Any]] = {
    "decay has shape (7,) and x (2, 3)": lambda: sp.snu_step(X[0], decay=torch.ones(7)),
    "threshold has shape (7,) and x (2, 3)": lambda: sp.snu_step(X[0], threshold=torch.ones(7)),
    "state.s has shape (7, 7)": lambda: sp.snu_step(
        X[0], sp.State(filled(1, 7, 7), filled(1, 7, 7))
    ),
    "state.s is ndarray": lambda: sp.snu_step(X[0], sp.State(X[0].numpy(), X[0].numpy())),
    "recurrent has shape (3, 4); it must be (3, 3)": lambda: sp.snu_step(
        X[0], recurrent=torch.ones(3, 4)
    ),
    "decay is ndarray of shape (3,)": lambda: sp.snu_scan(X, decay=np.ones(3)),
    "recurrent is ndarray": lambda: sp.snu_scan(X, recurrent=np.ones((3, 3))),
    "state.s is ndarray of shape (2, 3)": lambda: sp.snu_scan(
        X, state=sp.State(X[0].numpy(), X[0].numpy())
    ),
    "x is a sparse tensor; give x.to_dense()": lambda: sp.snu_scan(X.to_sparse()),
    "x has dtype torch.bool": lambda: sp.snu_scan(X.bool()),
    "x has shape (); it must be": lambda: sp.snu_scan(torch.tensor(1.0)),
    "config is State": lambda: sp.snu_scan(X, sp.State(X[0], X[0])),
    "config is type": lambda: sp.SNU(3, sp.SNUConfig),
    "features is (3, -1)": lambda: sp.SNU((3, -1)),
    "features is 0": lambda: sp.SNU(0),
    "features is None": lambda: sp.SNU(None),
    "state has shapes (9, 3) and (9, 3)": lambda: sp.SNU(3)(
        X, sp.State(filled(1, 9, 3), filled(1, 9, 3))
    ),
    "x is NoneType": lambda: sp.SNU(3)(None),
    "x is str; it must be a tensor": lambda: sp.implementations("x"),
    "config is str": lambda: sp.implementations(X, "c"),
    "in_features is -1; it must be a whole": lambda: sp.Linear(-1, 2),
    "in_features is '3'": lambda: sp.Linear("3", 2),
    "out_features is 4.0": lambda: sp.Linear(3, 4.0),
    "x has shape (5, 2), 2 along axis -1; the layer takes 3": lambda: sp.Linear(3, 4)(
        filled(1, 5, 2)
    ),
    "x has dtype torch.int64 and the weights torch.float32": lambda: sp.Linear(3, 4)(X.long()),
    "x has dtype torch.float64 and the weights": lambda: sp.Linear(3, 4)(X.double()),
    "x is ndarray of shape (5, 2, 3); it must be a tensor": lambda: sp.Linear(3, 4)(X.numpy()),
    "x has shape (4, 3, 8, 8), 3 along axis -3; the layer takes 1": lambda: sp.Conv2d(1, 2, 3)(
        filled(1, 4, 3, 8, 8)
    ),
    "x has shape (4,); it must have 4 axes": lambda: sp.Conv2d(1, 2, 3)(filled(1, 4)),
    "x is ndarray of shape (4, 1, 9)": lambda: sp.Conv1d(1, 2, 3)(np.ones((4, 1, 9))),
    "does not run on inputs of shape (5, 2, 7)": lambda: accelerated()(filled(1, 5, 2, 7)),
    "the network is called without a tensor": lambda: accelerated()(X.numpy()),
    "net is a Tensor; it must be a torch.nn.Module": lambda: sp.accelerate(
        X, torch.nn.Linear(3, 4)
    ),
    "net is accelerated already": lambda: sp.accelerate(accelerated(), X),
    "holds in .part a network that is accelerated already": lambda: sp.accelerate(
        with_part(accelerated()), X
    ),
    "net is Tensor; give a torch module": lambda: sp.diagnose(X, torch.nn.Linear(3, 4)),
    "loss is str and net is Linear": lambda: sp.diagnose(torch.nn.Linear(3, 4), X, loss="mse"),
}
SWAPPED: dict[str, Callable[[], Any]] = {
    "graph is a str; it must be a nir.NIRGraph": lambda: graph.write(network(), "x.nir"),
    "graph is a str; it": lambda: graph.stamp("g.nir", 1.0),
    "model is Tensor; it must be a torch module": lambda: graph.to_nir(X, torch.nn.Linear(3, 4)),
    "net is NIRGraph": lambda: graph.membranes(network(), X),
    "dtype is torch.int32": lambda: graph.network(network(), dtype=torch.int32),
    "dtype is 'float32'": lambda: graph.network(network(), dtype="float32"),
    "graph is a Chip": lambda: compile(PCM, network()),
    "chip is None; give a Chip": lambda: compile(network(), None),
    "chip is 3; give a name": lambda: find_chip(3),
    "chip is 'c.toml'; it must be a Chip": lambda: dump_chip("c.toml", PCM),
    "inputs are x; the graph has input": lambda: chip().run({"x": X}),
    "input input is NoneType": lambda: chip().run(None),
    "affine is given list": lambda: chip().pulse({"affine": [[1, 2, 3]] * 4}),
    "seconds is datetime.timedelta": lambda: chip().wait(timedelta(days=1)),
    "chip is [(tensor(": lambda: fine_tune([(X, X)], chip(), "rate"),
    "batches holds tuples of 3; give pairs": lambda: tune([(X, X, X)]),
    "loss is a int; give a function, or a name": lambda: tune(loss=3),
    "rule holds 3": lambda: tune(rule=3),
    "net is Chip; give the torch.nn.Module": lambda: entered(PCM, torch.nn.Linear(3, 4)),
    "chip is 'chip.toml'; give a Chip": lambda: entered(torch.nn.Linear(3, 4), "chip.toml"),
    "name is 3; it must be a text": lambda: zoo.get(3),
    "path is 3; give the path": lambda: zoo.get("jsb-snu", 3),
    "no network 'g.nir' in the zoo": lambda: zoo.read("g.nir"),
    "values are 'x'; give a tensor or an array": lambda: plot.raster("x"),
    "ax is 'ax'; it must be axes": lambda: plot.raster(X, "ax"),
    "layers is Tensor": lambda: plot.rates(X),
    "program is Chip": lambda: plot.chip_map(PCM),
    "chip is 'PCM'; it must be a Chip, such": lambda: plot.device("PCM"),
    "chip is Accelerator": lambda: plot.device(chip()),
}
NAMES_OF_ARGUMENTS: dict[str, Callable[[], Any]] = {
    "implementations has no argument 'cfg'; did you mean config?": lambda: sp.implementations(
        X, cfg=sp.SNUConfig()
    ),
    "accelerate has no argument 'samples'; did": lambda: sp.accelerate(torch.nn.ReLU(), samples=X),
    "diagnose has no argument 'los'; did you mean loss?": lambda: sp.diagnose(
        torch.nn.ReLU(), X, los=1
    ),
    "Conv2d has no argument 'strides'; did you mean stride?": lambda: sp.Conv2d(1, 2, 3, strides=2),
    "Linear has no argument 'biases'": lambda: sp.Linear(1, 2, biases=True),
    "to_nir has no argument 'checks'; did you mean check?": lambda: graph.to_nir(
        torch.nn.Linear(3, 4), X[0], dt=1.0, checks=False
    ),
    "check has no argument 'feed'; did you mean feedback?": lambda: graph.check(
        network(), feed="silent"
    ),
    "network has no argument 'time'; it has graph": lambda: graph.network(network(), time=1),
    "verify has no argument 'simulator'; did": lambda: graph.verify(network(), simulator=["norse"]),
    "compile has no argument 'samples'; did you mean sample?": lambda: compile(
        network(), PCM, samples=X
    ),
    "plan has no argument 'step'; did you mean steps?": lambda: plan(network(), PCM, step=3),
    "Accelerator has no argument 'sed'; did you mean seed?": lambda: Accelerator(
        compile(network(), IDEAL), sed=1
    ),
    "wait has no argument 'days'; it has seconds": lambda: chip().wait(days=1),
    "run has no argument 'reads'; it has x, record": lambda: chip().run(X, reads=3),
    "pulse has no argument 'affine'": lambda: chip().pulse(affine=filled(1)),
    "calibrate has no argument 'probes'; it has scope": lambda: chip().calibrate(probes=3),
    "hardware_aware has no argument 'noisy'": lambda: aware(noisy=1),
    "simulators is 'norse'; give a list of names": lambda: graph.verify(
        network(), X, simulators="norse"
    ),
    "kernel_size is -3; it must be a positive": lambda: sp.Conv2d(1, 2, -3),
    "stride is 0.5; it must be a positive": lambda: sp.Conv1d(1, 2, 3, (0.5,)),
    "in_channels is '1'": lambda: sp.Conv1d("1", 2, 3),
    "affine is given str; give a tensor": lambda: chip().write({"affine": "zero"}),
    "x is on meta and the weights on cpu; give x.to('cpu')": lambda: sp.Linear(3, 4)(X.to("meta")),
}
HOSTS: dict[str, Callable[[Any, Any], Any]] = {
    "input_ is ndarray": lambda st, sn: st.SNU()(X[0].numpy()),
    "input_ is None": lambda st, sn: st.SNU()(None),
    "threshold has shape (7,) and x (2, 3)": lambda st, sn: st.SNU(threshold=torch.ones(7))(X[0]),
    "beta is '0.9'; it must be a number": lambda st, sn: st.SNU(beta="0.9"),
    "x has shape (2, 3), 3 along axis -1; the layer takes 4": lambda st, sn: st.RSNU(
        linear_features=4
    )(X[0]),
    "threshold has shape (7,); it must broadcast": lambda st, sn: st.SNUSequence(
        threshold=torch.ones(7)
    )(X),
    "path is Linear": lambda st, sn: st.from_nir(torch.nn.Linear(3, 4)),
    "p is NoneType": lambda st, sn: sn.snu_feed_forward_step(X[0], None, None),
    "p is SNUConfig": lambda st, sn: sn.snu_feed_forward_step(X[0], None, sp.SNUConfig()),
    "p is NoneType; it must be SRCParameters": lambda st, sn: sn.src_feed_forward_step(
        X[0], None, None
    ),
    "p is str; it must be SRCParameters": lambda st, sn: sn.SRCCell("p"),
    "x is ndarray of shape (2, 3)": lambda st, sn: sn.SNUCell()(X[0].numpy()),
    "x is [1]; it must be a tensor": lambda st, sn: sn.SNUCell()([1]),
    "state.s has shape (9, 9)": lambda st, sn: sn.SNUCell()(
        X[0], sn.SNUState(filled(1, 9, 9), filled(1, 9, 9))
    ),
    "state is Tensor of shape (2, 3)": lambda st, sn: sn.SNUCell()(X[0], X[0]),
    "x has shape (5, 2, 3), 3 along axis -1": lambda st, sn: sn.SNURecurrent(4, 5)(X),
    "x has shape (2, 3), 3 along axis -1": lambda st, sn: sn.SNURecurrentCell(4, 5)(X[0]),
    "input_size is '3'": lambda st, sn: sn.SNURecurrent("3", 5),
    "recurrent_weights is ndarray": lambda st, sn: sn.SNURecurrent(
        3, 5, recurrent_weights=np.ones((5, 5))
    ),
    "input_weights has shape (2, 2)": lambda st, sn: sn.SNURecurrent(
        3, 5, input_weights=filled(1, 2, 2)
    ),
    "mem is 3; it must be a tensor": lambda st, sn: st.SNU()(X[0], 3),
    "spk is [1]; it must be a tensor": lambda st, sn: st.RSNU(linear_features=3)(X[0], [1], X[0]),
    "SNUCell has no argument 'dt_'; did you mean dt?": lambda st, sn: sn.SNUCell(dt_=1),
    "from_nir has no argument 'feedbak'": lambda st, sn: sn.from_nir(network(), feedbak="silent"),
    "to_nir has no argument 'time_step'": lambda st, sn: st.to_nir(torch.nn.ReLU(), time_step=1),
    "state is 3; it must be the list that an earlier": lambda st, sn: sn.from_nir(network())(
        X[0], 3
    ),
    "state is [None]; it must be the list": lambda st, sn: sn.from_nir(network())(X[0], [None]),
    "x is None; it must be numbers (T, B, ...)": lambda st, sn: st.simulate(network(), None),
}
FOR_IMPORTED: dict[str, Any] = {
    "x has shape (2, 9); it must be one step, (B, 3)": filled(1, 2, 9),
    "x has shape (); it must be one step, (B, 3)": torch.tensor(1.0),
    "x has dtype torch.float64 and the weights torch.float32; give x.to(torch.float32)": X[
        0
    ].double(),
    "x has dtype torch.int64 and the weights": X[0].long(),
    "x is ndarray": X[0].numpy(),
    "x is on meta and the weights on cpu; give x.to('cpu')": X[0].to("meta"),
}
USES = (
    NEURONS
    | STEPS_AND_PRODUCTS
    | SWAPPED
    | GRAPHS
    | CHIPS
    | LOOPS
    | OF_ANOTHER_KIND
    | NAMES_AND_KINDS
    | NAMES_OF_ARGUMENTS
)


@pytest.mark.parametrize("said", USES)
def test_a_wrong_use_is_answered_in_one_line_that_says_what_was_given(said: str) -> None:
    before = dict(chip().registers)
    with pytest.raises((ValueError, TypeError, LookupError, OSError, RuntimeError)) as refused:
        USES[said]()
    message = str(refused.value)
    assert said in message
    assert "\n" not in message
    assert chip().pulses == 0
    assert all(torch.equal(value, before[name]) for name, value in chip().registers.items())


@pytest.mark.parametrize("said", HOSTS)
def test_a_wrong_use_of_a_hosts_neurons_is_answered_in_one_line(said: str) -> None:
    pytest.importorskip("snntorch"), pytest.importorskip("norse.torch")
    with pytest.raises((ValueError, TypeError)) as refused:
        HOSTS[said](import_module("snu_snntorch"), import_module("snu_norse"))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def in_two_ways() -> nir.NIRGraph:
    """A graph that is no chain: two neurons are fed by one Input and added."""
    graph_ = network()
    names = {name: type(node).__name__ for name, node in graph_.nodes.items()}
    lif = next(name for name, kind in names.items() if kind == "LIF")
    affine = next(name for name, kind in names.items() if kind == "Affine")
    graph_.nodes["other"] = nir.Linear(np.ones((4, 3)))
    source = next(a for a, b in graph_.edges if b == affine)
    graph_.edges += [(source, "other"), ("other", lif)]
    return graph_


@pytest.mark.parametrize("host", ["snu_snntorch", "snu_norse"])
@pytest.mark.parametrize("wired", [network, in_two_ways])
@pytest.mark.parametrize("said", FOR_IMPORTED)
def test_a_network_from_a_graph_says_what_a_step_must_be(
    host: str, wired: Callable[[], nir.NIRGraph], said: str
) -> None:
    net = pytest.importorskip(host).from_nir(wired())
    with pytest.raises((ValueError, TypeError)) as refused:
        net(FOR_IMPORTED[said])
    message = str(refused.value).replace("x for Input 'input'", "x")
    assert said in message
    assert "\n" not in message
    net(X[0])


def test_a_network_from_a_graph_takes_what_another_first_layer_takes() -> None:
    net = pytest.importorskip("snu_snntorch").from_nir(network())
    net[0] = torch.nn.Linear(9, 4)
    assert net(filled(1.0, 2, 9)).shape == (2, 4)
    assert net[1:](filled(1.0, 2, 4)).shape == (2, 4)


def test_a_chip_takes_numpys_arrays_wherever_it_takes_tensors() -> None:
    own = Accelerator(compile(network(), PCM), seed=0)
    own.program()
    before = own.pulses
    own.pulse({"affine": np.ones((4, 3), dtype=np.int64)})
    own.reset({"affine": np.zeros((4, 3), dtype=bool)})
    own.write({"affine": np.zeros((4, 3))}, {"affine": np.eye(4, 3, dtype=bool)})
    own.set_registers({"affine.gain": np.ones(4)})
    assert own.pulses > before


def test_a_name_that_is_not_there_is_answered_by_the_nearest() -> None:
    with pytest.raises(AttributeError) as refused:
        sp.accelrate  # noqa: B018
    assert (refused.value.name, refused.value.obj) == ("accelrate", sp)  # what Python looks near


def test_a_file_is_not_written_over_a_folder(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="is a folder; give the name of a file"):
        chip().save(tmp_path)
    assert not list(tmp_path.iterdir())
