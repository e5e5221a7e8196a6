"""The checks of docs/neurons.md#checks, for every implementation that can run here."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from snu_plugin import SNU, SNUConfig, State, implementations, snu_scan, sSNU
from snu_plugin.neuron import step, tanh_derivative

IMPLEMENTATIONS = [name for name, found in implementations().items() if found.available]
every_implementation = pytest.mark.parametrize("impl", IMPLEMENTATIONS)


def column(*values: float) -> Tensor:
    """Return one unit's input over time, ``(T, 1, 1)``."""
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1)


def states(x: Tensor, config: SNUConfig, impl: str) -> tuple[Tensor, Tensor]:
    """Return every state and output, the states read off after each step."""
    state, s, y = None, [], []
    for x_t in x:
        _, state = snu_scan(x_t[None], config, state=state, impl=impl)
        s.append(state.s)
        y.append(state.y)
    return torch.stack(s), torch.stack(y)


def assert_column(actual: Tensor, *expected: float) -> None:
    expected_values = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual.flatten(), expected_values, rtol=0, atol=1e-6)


@every_implementation
def test_c1_a_unit_charges_and_fires(impl: str) -> None:
    s, y = states(column(*[0.6] * 6), SNUConfig(), impl)
    assert_column(s, 0.6, 1.08, 0.6, 1.08, 0.6, 1.08)
    assert_column(y, 0, 1, 0, 1, 0, 1)


def test_c2_the_step_is_zero_at_zero_and_its_slope_is_that_of_tanh() -> None:
    v = column(0, 0.5, 1, 2, -0.5, -1, -2).requires_grad_()
    y = step(v, tanh_derivative)
    assert_column(y, 0, 1, 1, 1, 0, 0, 0)
    (slope,) = torch.autograd.grad(y.sum(), v)
    assert_column(slope, 1, 0.786448, 0.419974, 0.070651, 0.786448, 0.419974, 0.070651)


def sum_gradients(config: SNUConfig, impl: str) -> tuple[Tensor, ...]:
    """Return d(sum y)/d(W, b, l) in the setting of C1."""
    w, b, l = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (1.0, -1.0, 0.8))
    y, _ = snu_scan(w * column(*[0.6] * 6), config, decay=l, threshold=-b, impl=impl)
    return torch.autograd.grad(y.sum(), (w, b, l))


@every_implementation
def test_c3_gradients_flow_through_the_reset_unless_detached(impl: str) -> None:
    through = torch.stack(sum_gradients(SNUConfig(), impl))
    assert_column(through, 2.543846, 3.276475, 0.722451)
    detached = torch.stack(sum_gradients(SNUConfig(detach_reset=True), impl))
    assert_column(detached, 4.759502, 5.547798, 1.788529)


@every_implementation
def test_c4_a_soft_unit_resets_in_proportion(impl: str) -> None:
    config = SNUConfig(soft=True)
    s, y = states(column(*[0.6] * 6), config, impl)
    assert_column(s, 0.6, 0.887370, 0.974916, 0.994857, 0.998966, 0.999793)
    assert_column(y, 0.401312, 0.471872, 0.493729, 0.498714, 0.499742, 0.499948)
    assert_column(torch.stack(sum_gradients(config, impl)), 1.116963, 1.225776, 0.692971)


@every_implementation
def test_c5_negative_drive_is_kept_leaked_or_cut(impl: str) -> None:
    x = column(-1, 0.5, 1, 1)
    s, y = states(x, SNUConfig(g="leaky_relu"), impl)
    assert_column(s, -0.1, 0.42, 1.336, 1.0)
    assert_column(y, 0, 0, 1, 0)
    s, y = states(x, SNUConfig(g="relu"), impl)
    assert_column(s, 0, 0.5, 1.4, 1.0)
    assert_column(y, 0, 0, 1, 0)


def pair() -> Tensor:
    """Return the input of C6 after its weights 1.2 I, five steps of two units."""
    return 1.2 * torch.tensor([1.0, 0.4], dtype=torch.float64).expand(5, 1, 2)


@pytest.mark.parametrize("impl", [None, "reference"])
def test_c6_recurrent_weights_carry_the_last_output(impl: str | None) -> None:
    rows_send = torch.tensor([[0.5, -1], [0.25, 0]], dtype=torch.float64)
    state, s, y = None, [], []
    for x_t in pair():
        _, state = snu_scan(x_t[None], recurrent=rows_send.T, state=state, impl=impl)
        s.append(state.s[0])
        y.append(state.y[0])
    assert_column(torch.stack(s)[:, 0], 1.2, 1.7, 1.7, 1.7, 1.7)
    assert_column(torch.stack(s)[:, 1], 0.48, -0.136, -0.6288, -1.02304, -1.338432)
    assert_column(torch.stack(y)[:, 0], 1, 1, 1, 1, 1)
    assert_column(torch.stack(y)[:, 1], 0, 0, 0, 0, 0)


@every_implementation
def test_c7_without_recurrence_the_second_unit_fires(impl: str) -> None:
    s, y = states(pair(), SNUConfig(), impl)
    assert_column(s[..., 1], 0.48, 0.864, 1.1712, 0.48, 0.864)
    assert_column(y[..., 1], 0, 0, 1, 0, 0)


@pytest.mark.parametrize("impl", [None, "reference"])
def test_c7_lateral_inhibition_silences_it(impl: str | None) -> None:
    y, _ = snu_scan(pair(), SNUConfig(lateral_inhibition="sample"), impl=impl)
    assert_column(y[..., 1], 0, 0, 0, 0, 0)


@pytest.mark.parametrize("impl", [None, "reference"])
def test_c8_lateral_inhibition_acts_within_a_sample(impl: str | None) -> None:
    x = torch.rand(20, 2, 5, generator=torch.Generator().manual_seed(0))
    config = SNUConfig(lateral_inhibition="sample")
    together, _ = snu_scan(x, config, impl=impl)
    alone = [snu_scan(x[:, b : b + 1], config, impl=impl)[0] for b in range(2)]
    assert together.any()
    assert torch.equal(together, torch.cat(alone, 1))


@pytest.mark.parametrize("soft", [False, True])
def test_lateral_inhibition_of_the_batch_is_that_of_one_sample_with_all_units(soft: bool) -> None:
    x = torch.rand(20, 2, 5, generator=torch.Generator().manual_seed(0))
    together, _ = snu_scan(x, SNUConfig(soft=soft, lateral_inhibition="batch"))
    joined = x.reshape(20, 1, 10)
    expected, _ = snu_scan(joined, SNUConfig(soft=soft, lateral_inhibition="sample"))
    assert torch.equal(together, expected.reshape(20, 2, 5))
    apart, _ = snu_scan(x, SNUConfig(soft=soft, lateral_inhibition="sample"))
    assert not torch.equal(together, apart)


def test_lateral_inhibition_is_by_sample_unless_it_says_batch() -> None:
    assert SNUConfig(lateral_inhibition=True) == SNUConfig(lateral_inhibition="sample")
    assert SNUConfig(lateral_inhibition=False) == SNUConfig()
    with pytest.raises(ValueError, match="lateral_inhibition is 'layer'; it must be None"):
        SNUConfig(lateral_inhibition="layer")  # type: ignore[arg-type]


@every_implementation
@pytest.mark.parametrize("soft", [False, True])
def test_c9_chunks_equal_the_whole(impl: str, soft: bool) -> None:
    x = torch.rand(20, 2, 5, generator=torch.Generator().manual_seed(0))
    config = SNUConfig(soft=soft)
    whole, end = snu_scan(x, config, impl=impl)
    first, state = snu_scan(x[:7], config, impl=impl)
    second, last = snu_scan(x[7:], config, state=state, impl=impl)
    assert torch.equal(torch.cat((first, second)), whole)
    assert torch.equal(last.s, end.s)


def test_c14_the_published_network_has_26638_parameters_and_52800_devices() -> None:
    for unit in (SNU(150), sSNU(150)):
        net = nn.ModuleList([nn.Linear(88, 150, bias=False), unit, nn.Linear(150, 88)])
        assert sum(p.numel() for p in net.parameters()) == 26_638
        assert 2 * sum(p.numel() for p in net.parameters() if p.dim() == 2) == 52_800


@every_implementation
def test_a_soft_unit_passes_gradcheck(impl: str) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(4, 2, 3, generator=random, dtype=torch.float64, requires_grad=True)
    s = torch.randn(2, 3, generator=random, dtype=torch.float64, requires_grad=True)
    y = torch.rand(2, 3, generator=random, dtype=torch.float64, requires_grad=True)
    l = torch.rand(3, generator=random, dtype=torch.float64, requires_grad=True)
    config = SNUConfig(soft=True)

    def scan(x: Tensor, s: Tensor, y: Tensor, l: Tensor) -> tuple[Tensor, ...]:
        out, last = snu_scan(x, config, decay=l, state=State(s, y), impl=impl)
        return out, last.s, last.y

    assert torch.autograd.gradcheck(scan, (x, s, y, l))
