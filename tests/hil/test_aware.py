"""Hardware-aware training: the chip inside the training loop of a host's network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import norse.torch as norse
import numpy as np
import pytest
import snntorch as snn
import torch
from torch import Tensor, nn

import snu_plugin as sp
import snu_snntorch as st
from forked import Process
from snu_plugin.accelerator import IDEAL, PCM, PCM_PULSED, Accelerator, Chip
from snu_plugin.compiler import CannotMap, compile
from snu_plugin.hil import hardware_aware

SPREAD = replace(
    PCM, wire_ohm=None, dac_bits=None, adc_bits=None, output_noise=None, read_noise=None
)
"""PCM of which nothing is left but how it writes."""


class Tutorial(nn.Module):
    """The network of snnTorch's tutorials, with a loop over time of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(12, 10)
        self.lif1 = snn.RLeaky(beta=0.9, linear_features=10)
        self.fc2 = nn.Linear(10, 3)
        self.lif2 = snn.Leaky(beta=0.9, init_hidden=False)

    def forward(self, x: Tensor) -> Tensor:
        spk, mem1 = self.lif1.init_rleaky()
        mem2, shown = self.lif2.init_leaky(), []
        for x_t in x:
            spk, mem1 = self.lif1(self.fc1(x_t), spk, mem1)
            _, mem2 = self.lif2(self.fc2(spk), mem2)
            shown.append(mem2)
        return torch.stack(shown)


class Lifted(nn.Module):
    """Norse: recurrent neurons with weights of their own, and what is lifted over time."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = norse.SequentialState(
            norse.LIFRecurrent(12, 10), norse.Lift(nn.Linear(10, 3)), norse.LI()
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)[0]
        return out


class Maps(nn.Module):
    """A convolution with batch norm, in front of our layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding="same", groups=3)
        self.norm = nn.BatchNorm2d(6)
        self.fc = sp.Linear(24, 8)
        self.snu = sp.SNU(8, recurrent=True)

    def forward(self, x: Tensor) -> Tensor:
        images = self.norm(self.conv(x.reshape(-1, 3, 2, 2)))
        y: Tensor = self.snu(self.fc(images.reshape(*x.shape[:2], -1)))[0]
        return y


NETWORKS = (Tutorial, Lifted, Maps)


def made(kind: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    net = kind()
    if isinstance(net, Lifted):
        with torch.no_grad():
            net.layers[0].input_weights.mul_(10)
    return net


def spikes(*shape: int, seed: int = 1) -> Tensor:
    return torch.bernoulli(torch.full(shape, 0.4), generator=torch.Generator().manual_seed(seed))


def learnt(net: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    net.zero_grad()
    y = net(x)
    (y.float() ** 2).sum().backward()
    return y.detach(), [p.grad.clone() for p in net.parameters() if p.grad is not None]


@pytest.mark.parametrize("kind", NETWORKS)
def test_an_ideal_chip_changes_no_bit_of_outputs_and_gradients(
    kind: Callable[[], nn.Module],
) -> None:
    x = spikes(5, 4, 12)
    plain, other = made(kind), made(kind)
    y, gradients = learnt(plain, x)
    with hardware_aware(other, IDEAL):
        seen, as_seen = learnt(other, x)
    assert torch.equal(y, seen)
    assert len(gradients) == len(as_seen)
    assert all(map(torch.equal, gradients, as_seen))


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("chip", [PCM, PCM_PULSED])
def test_every_matrix_is_seen_as_the_chip_writes_it_and_keeps_a_gradient(
    kind: Callable[[], nn.Module], chip: Chip, recwarn: pytest.WarningsRecorder
) -> None:
    net, x = made(kind), spikes(5, 4, 12)
    with hardware_aware(net, chip) as aware:
        for _ in range(2):
            _, gradients = learnt(net, x)
        for name, held in aware.weights().items():
            own = net.get_parameter(name)
            assert not torch.equal(held, own)
            assert (held - own).abs().max() < 0.5 * own.abs().max()
    assert all(g.isfinite().all() for g in gradients)
    assert len(gradients) == len([p for p in net.parameters() if p.requires_grad])
    assert not [w for w in recwarn if "no product" in str(w.message)]


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_as_before_after_the_block_and_an_optimiser_made_before_goes_on(
    kind: Callable[[], nn.Module], fails: bool
) -> None:
    net, x = made(kind), spikes(5, 4, 12)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.9)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    parameters = dict(net.named_parameters())
    modules = [(name, type(module)) for name, module in net.named_modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    try:
        with hardware_aware(net, PCM):
            for _ in range(3):
                learnt(net, x)
                optimiser.step()
                schedule.step()
            if fails:
                raise KeyError("in the loop")
    except KeyError:
        assert fails
    assert list(net.state_dict()) == list(before)
    assert all(p is parameters[name] for name, p in net.named_parameters())
    assert [(name, type(module)) for name, module in net.named_modules()] == modules
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()] == hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks
    trained = next(iter(net.parameters())).detach().clone()
    assert not torch.equal(trained, next(iter(before.values())))
    y, _ = learnt(net.eval(), x)
    other = made(kind, seed=1)
    other.load_state_dict(net.state_dict())
    assert torch.equal(y, learnt(other.eval(), x)[0])
    optimiser.step()
    assert not torch.equal(next(iter(net.parameters())), trained)


class Single(nn.Module):
    """A layer, and maybe another one that is never called."""

    def __init__(self, spare: bool = False) -> None:
        super().__init__()
        self.fc = nn.Linear(20, 16)
        self.spare = nn.Linear(20, 2) if spare else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        return y


def single() -> tuple[Single, nir.NIRGraph]:
    """Return a layer, and the graph that calls its node as the layer its parameter."""
    torch.manual_seed(0)
    net = Single()
    node = nir.Affine(net.fc.weight.detach().numpy(), net.fc.bias.detach().numpy())
    nodes = {
        "in": nir.Input({"input": np.array([20])}),
        "fc.weight": node,
        "out": nir.Output({"output": np.array([16])}),
    }
    graph = nir.NIRGraph(nodes, [("in", "fc.weight"), ("fc.weight", "out")])
    return net, graph


def test_the_first_pass_is_to_the_last_bit_that_of_a_chip_with_this_seed() -> None:
    chip = replace(PCM, read_noise=None, tile_rows=11)
    net, graph = single()
    x = torch.rand(6, 3, 20, generator=torch.Generator().manual_seed(0))
    board = Accelerator(compile(graph, chip), seed=5)
    board.program()
    with hardware_aware(net, chip, seed=5):
        y = net(x)
    assert torch.equal(y, board.run(x)[0])


def test_weights_scatter_as_those_of_chips_that_are_programmed() -> None:
    chip = replace(PCM, read_noise=None)  # of which a reading shows more than stays
    net, graph = single()
    drawn, written = [], []
    with hardware_aware(net, chip, seed=100) as aware:
        for seed in range(60):
            aware.redraw()
            drawn.append(aware.weights()["fc.weight"])
            board = Accelerator(compile(graph, chip), seed=seed)
            board.program()
            written.append(board.read_weights()["fc.weight"])
    ours, theirs = torch.stack(drawn).var(0).mean(), torch.stack(written).var(0).mean()
    # 320 weights of 60 draws: variances of 19,200 numbers are known to 1 %.
    assert abs(float(ours / theirs) - 1) < 0.05


def test_the_mean_over_draws_is_the_clean_output_within_its_closed_form() -> None:
    # Above g_min_us no device is held at 0, so that what is written is the target on average.
    chip = replace(SPREAD, g_min_us=3.0)
    net, graph = single()
    x, count = torch.rand(1, 20, generator=torch.Generator().manual_seed(3)), 400
    op = compile(graph, chip).products["fc.weight"]
    devices = op.layout.fill(op.targets_us())
    g = devices / chip.g_max_us
    sigma = (0.26348 + 1.9650 * g - 1.1731 * g**2) * chip.g_max_us / 25
    variance = (sigma.square().sum(0) * op.weight_per_us**2) @ x[0].double() ** 2
    with hardware_aware(net, chip) as aware:
        seen = torch.stack([net(x)[0].detach() for _ in range(count)]).double()
        assert aware.draws == count
    away = (seen.mean(0) - net(x)[0].detach()) / (variance / count).sqrt()
    assert away.abs().max() < 4
    ratio = seen.var(0) / variance
    assert (ratio - 1).abs().max() < 4 * (2 / count) ** 0.5


def test_the_gradient_is_that_of_the_weights_that_the_devices_hold() -> None:
    net, _ = single()
    x = torch.rand(2, 4, 20, requires_grad=True)
    with hardware_aware(net, PCM) as aware:
        net(x).sum().backward()
        held = aware.weights()["fc.weight"]
    assert x.grad is not None
    assert net.fc.weight.grad is not None
    assert torch.allclose(x.grad, held.sum(0).expand_as(x), atol=1e-6)
    assert torch.allclose(net.fc.weight.grad, x.detach().sum((0, 1)).expand(16, 20), atol=1e-5)
    assert net.fc.bias.grad is not None
    assert torch.equal(net.fc.bias.grad, torch.full((16,), 8.0))


def test_the_same_seed_draws_the_same_and_another_seed_others() -> None:
    x = spikes(5, 4, 12)

    def outputs(seed: int) -> Tensor:
        net = made(Tutorial)
        with hardware_aware(net, PCM, seed=seed):
            return torch.stack([net(x).detach() for _ in range(2)])

    first = outputs(1)
    assert torch.equal(first, outputs(1))
    assert not torch.equal(first, outputs(2))
    assert not torch.equal(first[0], first[1])


def test_a_chip_serves_as_many_passes_as_every_says() -> None:
    net, _ = single()
    with hardware_aware(net, SPREAD, every=3) as aware:
        passes = [net(torch.ones(1, 20)) for _ in range(6)]
    assert aware.draws == 2
    assert torch.equal(passes[0], passes[2])
    assert not torch.equal(passes[2], passes[3])


def test_eval_is_exact_unless_it_is_asked_for() -> None:
    net, _ = single()
    x = torch.ones(1, 20)
    clean = net(x)
    with hardware_aware(net, PCM):
        assert torch.equal(net.eval()(x), clean)
    with hardware_aware(net, PCM, in_eval=True):
        assert not torch.equal(net(x), clean)


def test_noise_follows_a_schedule_of_progress() -> None:
    net, _ = single()
    with hardware_aware(net, SPREAD, noise=lambda progress: 2 * progress) as aware:
        spread = []
        for progress in (0.0, 0.5, 1.0):
            aware.step(progress)
            aware.redraw()
            spread.append(float((aware.weights()["fc.weight"] - net.fc.weight).detach().std()))
    assert spread[0] < 1e-7  # as float32 holds what conductances give back
    assert spread[1] > 1e-3
    assert 1.7 < spread[2] / spread[1] < 2.3


def test_a_limit_acts_in_the_view_alone_unless_it_is_stored() -> None:
    net, _ = single()
    with torch.no_grad():
        net.fc.weight[0, 0] = 5.0
    with hardware_aware(net, IDEAL, limit=0.1) as aware:
        learnt(net, torch.ones(1, 20))
        assert aware.weights()["fc.weight"].abs().max() <= 0.1 + 1e-7
        assert net.fc.weight.grad is not None
        assert net.fc.weight.grad[0, 0] != 0
    assert net.fc.weight[0, 0] == 5.0
    with hardware_aware(net, IDEAL, limit=0.1, store_limit=True):
        learnt(net, torch.ones(1, 20))
    assert net.fc.weight[0, 0] == 0.1


def test_an_aged_chip_is_recalibrated() -> None:
    net, _ = single()
    with hardware_aware(net, SPREAD, age_s=86400.0) as aware:
        aware.redraw()
        held = aware.weights()["fc.weight"]
    # Uncalibrated, a day of drift takes about 35 % of every weight.
    own = net.fc.weight.detach()
    slope = float((held * own).sum() / own.square().sum())
    assert abs(slope - 1) < 0.03


def test_a_copy_made_inside_is_a_network_without_a_chip() -> None:
    net, x = made(Lifted), spikes(5, 4, 12)
    clean = net(x)
    with hardware_aware(net, PCM):
        assert torch.equal(copy.deepcopy(net)(x), clean)


@pytest.mark.filterwarnings("ignore:Using `torch.compile:UserWarning")
def test_autocast_and_torch_compile_see_the_noise() -> None:
    net, _ = single()
    x = torch.rand(3, 20)
    compiled: Any = torch.compile(net, backend="eager")
    compiled(x)
    for given in (net, compiled):
        with hardware_aware(given, PCM) as aware:
            whole = given(x)
            with torch.autocast("cpu", torch.bfloat16):
                half = given(x)
            assert half.dtype == torch.bfloat16
            half.float().sum().backward()
            assert aware.draws >= 2
        assert not torch.equal(whole, net(x))
        assert (half.float() - net(x)).abs().max() < 1.5
    assert torch.equal(compiled(x), net(x))


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv3d(1, 1, 2), "0: Conv3d has no NIR rule"),
        (nn.LSTM(3, 4), "0: LSTM has no NIR rule"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), "0: its weight is computed"),
        (nn.Linear(256, 20_000), "79 tiles of 256 x 256 are needed"),
        (nn.ReLU(), "the network has no matrix to put on devices"),
    ],
)
def test_what_no_chip_can_hold_is_refused_by_name(layer: nn.Module, reason: str) -> None:
    with (
        pytest.raises(CannotMap, match=reason) as refused,
        hardware_aware(nn.Sequential(layer), PCM),
    ):
        pass
    assert any(reason in one for one in refused.value.reasons)


def test_what_is_given_wrongly_is_refused() -> None:
    net, _ = single()
    wrong: dict[str, Any]
    for wrong in (
        {"every": 0},
        {"noise": -1.0},
        {"noise": float("nan")},
        {"age_s": -1.0},
        {"limit": 0.0},
        {"store_limit": True},
        {"scaling": "row"},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))), hardware_aware(net, PCM, **wrong):
            pass
    with pytest.raises(TypeError, match="give a Chip"), hardware_aware(net, "PCM"):  # type: ignore[arg-type]
        pass
    weight: Any = net.fc.weight
    with pytest.raises(TypeError, match=r"give the torch\.nn\.Module"), hardware_aware(weight, PCM):
        pass
    with (
        hardware_aware(net, PCM),
        pytest.raises(RuntimeError, match="at work already"),
        hardware_aware(net, PCM),
    ):
        pass
    normed = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2))
    with (
        pytest.raises(CannotMap, match="take scaling='column'"),
        hardware_aware(normed, PCM, "layer"),
    ):
        pass


def test_a_weight_that_meets_no_product_is_named() -> None:
    net = Single(spare=True)
    with hardware_aware(net, PCM):
        net(torch.ones(1, 20))
        with pytest.warns(UserWarning, match=r"spare\.weight: in the first"):
            net(torch.ones(1, 20))


def train(rank: int, size: int, chip: Chip = PCM) -> dict[str, Tensor]:
    """Train on one part of a batch, wrapped if there are others."""
    net = made(Tutorial, seed=4)
    whole = net if size == 1 else nn.parallel.DistributedDataParallel(net)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01)
    part = 8 // size
    x = spikes(5, 8, 12)[:, rank * part : (rank + 1) * part]
    with hardware_aware(whole, chip, seed=3):
        for _ in range(3):
            optimiser.zero_grad()
            whole(x).square().mean().backward()
            optimiser.step()
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


PROCESS = """
import sys, torch
from tests.hil.test_aware import train
rank, at = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
meet = f"file://{at}/meet"
torch.distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=2)
torch.save(train(rank, 2), f"{at}/{rank}.pt")
torch.distributed.destroy_process_group()
"""


def test_two_processes_learn_what_one_learns_from_the_whole_batch(tmp_path: Path) -> None:
    begun = [Process(PROCESS, str(rank), str(tmp_path), ours=True) for rank in range(2)]
    alone = train(0, 1)
    assert [one.wait() for one in begun] == [0, 0]
    for rank in range(2):
        apart = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in alone.items():
            assert torch.allclose(apart[name], value, rtol=1e-4, atol=1e-5), name


def test_ranges_set_by_a_sample_are_those_that_compile_sets_by_it() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 5))
    for p in net.parameters():
        nn.init.uniform_(p, -1, 1)
    x = torch.rand(20, 8, 40)
    expected = compile(st.to_nir(net, x[:, :1]), PCM, dt=1.0, sample=x).ranges
    assert expected is not None
    with hardware_aware(net, PCM) as aware:
        aware.set_ranges(lambda: net(x))
        net(x)
        found = {m.name: m.crossbar.op.chip for m in aware._matrices.values() if m.crossbar}
    for name in ("0", "1"):
        chip, range_ = found[f"{name}.weight"], expected[name]
        assert chip.adc_bound == pytest.approx(range_.adc_bound, rel=0.1)
        assert chip.dac_bound == pytest.approx(range_.dac_bound, rel=0.1)
        assert chip.adc_bound != PCM.adc_bound


def test_setting_ranges_changes_nothing_of_the_network_and_needs_no_gradient() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 10), nn.Dropout(0.5), nn.Linear(10, 3))
    x, before = torch.rand(4, 2, 12), copy.deepcopy(net.state_dict())
    net[1].eval()
    exact = net.eval()(x)
    net.train()
    net[1].eval()
    with hardware_aware(net, PCM) as aware:
        seen: list[Tensor] = []
        aware.set_ranges(lambda: seen.append(net(x)))
        assert [module.training for module in net] == [True, False, True]
    assert torch.equal(seen[0], exact)
    assert not seen[0].requires_grad
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_training_that_goes_on_draws_the_chips_of_one_without_interruption() -> None:
    torch.manual_seed(0)
    net = nn.Linear(8, 4)
    with hardware_aware(net, PCM) as aware:
        for _ in range(4):
            aware.redraw()
        expected = aware.weights()["weight"]
    with hardware_aware(net, PCM) as aware:
        aware.go_on_from(3)
        aware.redraw()
        assert torch.equal(aware.weights()["weight"], expected)
