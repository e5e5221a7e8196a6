"""Converters and output-referred read noise against traces of an established toolkit."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from snu_plugin.accelerator.periphery import are_spikes, convert, resolution

ORACLE = Path(__file__).parents[3] / "shared" / "reference" / "pcm_oracle"


@pytest.fixture
def trace() -> dict[str, Tensor]:
    path = ORACLE / "periphery_oracle_20x64.npz"
    if not path.is_file():
        pytest.skip(f"needs the shared oracle tables, looked for {path}")
    with np.load(path) as file:
        return {name: torch.from_numpy(file[name]).double() for name in file}


@pytest.mark.parametrize(
    ("key", "dac_bits", "adc_bits", "adc_bound"),
    [
        ("Y_perfect", None, None, 1.0),
        ("Y_dac7_absmax", 7, None, 1.0),
        ("Y_adc9_absmax", None, 9, 12.0),
        ("Y_dac8_adc8_absmax", 8, 8, 10.0),
        ("Y_dac8_adc8_outbound2", 8, 8, 2.0),
    ],
)
def test_a_product_between_converters_is_the_toolkits(
    trace: dict[str, Tensor], key: str, dac_bits: int | None, adc_bits: int | None, adc_bound: float
) -> None:
    scale = trace["X"].abs().amax(1, keepdim=True)
    driven = convert(trace["X"] / scale, dac_bits, 1.0).values
    found = convert(driven @ trace["W"].T, adc_bits, adc_bound).values * scale
    torch.testing.assert_close(found, trace[key], atol=1e-5, rtol=0)


def test_read_noise_on_the_outputs_has_the_spread_of_the_toolkits(trace: dict[str, Tensor]) -> None:
    with (ORACLE / "pcm_read_output_noise.csv").open() as file:
        measured = [float(row["std_measured"]) for row in csv.DictReader(file)]
    variance = 0.0175**2 * trace["W"].abs()
    sigma = (trace["X"][0].square() @ variance.T).sqrt()
    torch.testing.assert_close(
        sigma, torch.tensor(measured, dtype=torch.float64), rtol=0.02, atol=0
    )


def test_saturated_values_are_counted_and_held() -> None:
    converted = convert(torch.tensor([0.2, 3.0, -9.0]), 8, 2.0)
    assert converted.saturated == 2
    assert converted.values[1:].tolist() == [2.0, -2.0]


def test_rounding_is_half_to_even_and_odd_symmetric() -> None:
    step = 2 * resolution(4)
    y = torch.tensor([0.5, 1.5, 2.5]).double() * step
    assert torch.equal(convert(y, 4, 1.0).values, torch.tensor([0.0, 2.0, 2.0]).double() * step)
    noisy = torch.randn(100, generator=Generator().manual_seed(0))
    assert torch.equal(convert(-noisy, 5, 1.5).values, -convert(noisy, 5, 1.5).values)


def test_no_bits_convert_nothing() -> None:
    y = torch.randn(10, generator=Generator().manual_seed(0)) * 100
    assert torch.equal(convert(y, None, 1.0).values, y)


def test_spikes_are_told_from_other_inputs() -> None:
    assert are_spikes(torch.tensor([0.0, 1.0]))
    assert not are_spikes(torch.tensor([0.0, 0.5]))
    assert are_spikes(torch.zeros(0))
