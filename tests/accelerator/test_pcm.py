"""Written devices against closed forms and against the tables of an established toolkit."""

import csv
import math
from pathlib import Path

import pytest
import torch
from torch import Generator

from snu_plugin.accelerator import Chip
from snu_plugin.accelerator.devices import statistical as pcm
from snu_plugin.accelerator.devices.model import blank
from snu_plugin.accelerator.devices.statistical import (
    HERMES1,
    HERMES2,
    JOSHI2020,
    Statistical,
    Statistics,
)

ORACLE = Path(__file__).parents[3] / "shared" / "reference" / "pcm_oracle"


def rows(name: str) -> list[dict[str, float]]:
    path = ORACLE / name
    if not path.is_file():
        pytest.skip(f"needs the shared oracle tables, looked for {path}")
    with path.open() as file:
        return [{k: _number(v) for k, v in row.items()} for row in csv.DictReader(file)]


def drift(g: torch.Tensor, nu: torch.Tensor, t: torch.Tensor, fit: Statistics) -> torch.Tensor:
    made = Statistical(Chip(g_max_us=fit.g_ref_us), fit)
    return made.drift(blank(g, 0.0)._replace(nu=nu), t)


def read_sigma(g: torch.Tensor, q: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return Statistical(Chip(), JOSHI2020).read_sigma(blank(g, 0.0)._replace(q=q), g, t)


def normal(like: torch.Tensor, generator: Generator) -> torch.Tensor:
    return torch.randn(like.shape, generator=generator).to(like)


def age(seconds: float) -> torch.Tensor:
    return torch.tensor(seconds, dtype=torch.float64)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def test_the_curves_of_the_joshi_fit_are_the_published_ones() -> None:
    for row in rows("pcmlike_curves_closed_form.csv"):
        g = torch.tensor(row["g_rel"], dtype=torch.float64)
        found = (
            JOSHI2020.programming_us(g),
            JOSHI2020.nu_mean(g),
            JOSHI2020.nu_sd(g),
            JOSHI2020.q(g),
        )
        expected = [row[k] for k in ("sigma_prog_uS", "mu_nu", "sigma_nu", "Qs")]
        torch.testing.assert_close(
            torch.stack(found), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-8
        )
        for key, t in (("20s", 20.0), ("1h", 3620.0), ("1d", 86_420.0), ("1y", 31_536_020.0)):
            sigma = read_sigma(torch.ones_like(g), JOSHI2020.q(g), age(t))
            assert float(sigma) == pytest.approx(row[f"sigma_read_rel_{key}"], rel=1e-6)


def test_devices_have_the_statistics_of_the_oracle_at_every_age() -> None:
    count = 200_000
    generator = Generator().manual_seed(3)
    written: dict[float, tuple[torch.Tensor, torch.Tensor]] = {}
    for row in rows("pcmlike_gmax25_device.csv"):
        g_t = row["g_target_uS"]
        target = torch.full((count,), g_t, dtype=torch.float64)
        if g_t not in written:
            written[g_t] = (
                pcm.write(target, JOSHI2020, 25.0, generator),
                pcm.drift_exponent(target, JOSHI2020, 25.0, normal(target, generator)),
            )
        g_p, nu = written[g_t]
        g_d = drift(g_p, nu, age(row["t_total_s"]), JOSHI2020)
        same(g_p, row["gprog_mean"], row["gprog_std"])
        same(nu, row["nu_mean"], row["nu_std"])
        same(g_d, row["gdrift_mean"], row["gdrift_std"])
        # The toolkit's Q_s is that of what was written (``noise_of``).
        sigma = read_sigma(g_d, JOSHI2020.q(g_p / 25), age(row["t_total_s"]))
        noise = torch.randn(count, generator=generator, dtype=torch.float64)
        same((g_d + sigma * noise).clamp_min(0), row["gfinal_mean"], row["gfinal_std"])


def same(sample: torch.Tensor, mean: float, std: float) -> None:
    """Both samples hold 200 000 devices: means within 5 standard errors, σ within 1 %.

    The distributions at 0 µS have tails that make 5 standard errors of σ more than that.
    """
    n = len(sample)
    assert float(sample.mean()) == pytest.approx(mean, abs=5 * std * math.sqrt(2 / n))
    tails = float(((sample - mean) / std).pow(4).mean())
    error = 0.01 if mean > 1 else max(0.01, 5 * math.sqrt((tails - 1) / 4 * 2 / n))
    assert float(sample.std()) == pytest.approx(std, rel=error)


@pytest.mark.parametrize("fit", [JOSHI2020, HERMES1, HERMES2])
@pytest.mark.parametrize("g", [0.0, 0.05, 0.3, 1.0])
def test_moments_after_a_day_meet_their_closed_forms(fit: Statistics, g: float) -> None:
    count, g_max, t = 200_000, fit.g_ref_us, 86_400.0
    generator = Generator().manual_seed(7)
    target = torch.full((count,), g * g_max, dtype=torch.float64)
    g_p = pcm.write(target, fit, g_max, generator)
    nu = pcm.drift_exponent(target, fit, g_max, normal(target, generator))
    g_d = drift(g_p, nu, age(t), fit)
    relative = torch.tensor(g, dtype=torch.float64)
    s, mu, sd = (float(f(relative)) for f in (fit.programming_us, fit.nu_mean, fit.nu_sd))
    m1, m2 = clipped_moments(g * g_max, s)
    log = math.log(t / fit.t0_s)
    mean = m1 * folded(1, mu, sd, log)
    variance = m2 * folded(2, mu, sd, log) - mean**2
    assert float(g_d.mean()) == pytest.approx(mean, abs=5 * math.sqrt(variance / count))
    assert float(g_d.std()) == pytest.approx(math.sqrt(variance), rel=0.02)


def clipped_moments(mean: float, s: float) -> tuple[float, float]:
    """First two moments of max(0, N(mean, s)) (docs/devices.md#moments)."""
    a = mean / s
    below, density = cdf(a), math.exp(-a * a / 2) / math.sqrt(2 * math.pi)
    return mean * below + s * density, (mean**2 + s**2) * below + mean * s * density


def folded(k: int, mu: float, sd: float, log: float) -> float:
    """E[(t/t0)^(-k |N(mu, sd)|)] (docs/devices.md#moments)."""
    a, b = k * log * mu, (k * log * sd) ** 2 / 2
    return math.exp(-a + b) * cdf(mu / sd - k * log * sd) + math.exp(a + b) * cdf(
        -mu / sd - k * log * sd
    )


def cdf(x: float) -> float:
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def test_the_programming_error_agrees_with_a_second_fit_to_the_same_array() -> None:
    def crossim(g: float) -> float:
        return -0.00178767 * g**2 + 0.07585724 * g + 0.28638599

    full, zero = torch.tensor(1.0), torch.tensor(0.0)
    assert float(JOSHI2020.programming_us(full)) == pytest.approx(crossim(25.0), rel=0.01)
    assert float(JOSHI2020.programming_us(zero)) == pytest.approx(crossim(0.0), rel=0.09)


def test_nothing_drifts_before_the_first_read() -> None:
    g = torch.tensor([5.0, 25.0])
    nu = torch.tensor([0.1, 0.05])
    assert torch.equal(drift(g, nu, age(3.0), JOSHI2020), g)
    assert torch.equal(drift(g, nu, torch.tensor([3.0, 20.0]), JOSHI2020), g)
    assert (drift(g, nu, age(21.0), JOSHI2020) < g).all()
