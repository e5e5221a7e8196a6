"""Who is timed beside the product alone, by name."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping

from torch import nn

from snu_plugin.bench import hosts
from snu_plugin.bench.workload import Call, First, Layer, Workload
from snu_plugin.neuron import SNU, implementations, sSNU

PRODUCT = "product alone"
COPIES = "three copies"
COMPILED = "torch.compile of the reference"
ALONE = ", no product"

Maker = Callable[[Workload], Call]
"""Gets a candidate ready; raises ``ImportError`` or ``ValueError`` where it cannot run here."""


def candidates(only: Iterable[str] = ()) -> dict[str, Maker]:
    """Return everybody who may be timed, installed or not.

    ``three copies`` of ``(T, B, N)`` move six tensors, which is what a neuron cannot but move:
    input and output forward; both gradients, and input and output again, backward.

    Args:
        only: Parts of the names wanted besides the product and the copies; none: all.

    Raises:
        LookupError: For a part that is in no name.
    """
    known = {PRODUCT: _product, COPIES: _copies, **_ours(), **_others()}
    wanted = tuple(only)
    for part in wanted:
        if not any(part.lower() in name.lower() for name in known):
            raise LookupError(f"no candidate {part!r}; the candidates: {', '.join(known)}")
    return {
        name: make
        for name, make in known.items()
        if not wanted
        or name in (PRODUCT, COPIES)
        or any(part.lower() in name.lower() for part in wanted)
    }


def ready(work: Workload, makers: Mapping[str, Maker], absent: dict[str, str]) -> dict[str, Call]:
    """Return who can run a workload, after a first run; adds to ``absent`` who cannot, and why.

    In a stack of layers nobody runs without its products.
    """
    calls: dict[str, Call] = {}
    for name, make in makers.items():
        if name in absent or (ALONE in name and len(work.sizes) > 2):
            continue
        try:
            call = make(work)
            call()
        except ImportError as error:
            absent[name] = f"{error.name} is not installed" if error.name else str(error)
        except Exception as error:  # a host may raise anything: that is what is told
            if name not in _others():
                raise
            absent[name] = " ".join(f"{type(error).__name__}: {error}".split())
        else:
            calls[name] = call
    return calls


def _product(work: Workload) -> Call:
    return work.train(work.stack(None))


def _copies(work: Workload) -> Call:
    _, tensor = work.draw()
    return lambda: [tensor.clone() for _ in range(3)]


def _ours() -> dict[str, Maker]:
    found: dict[str, Maker] = {}
    units = {"SNU": SNU, "sSNU": sSNU}
    for impl, name in itertools.product(implementations(), units):
        layer = functools.partial(_unit, units[name], impl)
        found[f"{name} ({impl})"] = functools.partial(_after_products, layer)
        if impl != "reference":
            found[f"{name} ({impl}){ALONE}"] = functools.partial(_alone, layer)
    found["snu_snntorch.SNUSequence"] = functools.partial(_after_products, hosts.snu_sequence)
    found["snu_snntorch.SNU by steps"] = hosts.snu_by_steps
    return found


def _others() -> dict[str, Maker]:
    return {
        "nn.ReLU": functools.partial(_after_products, lambda features: nn.ReLU()),
        "snnTorch Leaky": functools.partial(_after_products, hosts.leaky),
        "snnTorch Leaky by steps": hosts.leaky_by_steps,
        "Norse LIFBoxCell": functools.partial(_after_products, hosts.lif_box),
        "SpikingJelly LIFNode": functools.partial(_after_products, hosts.spikingjelly),
        "sinabs LIF": functools.partial(_after_products, hosts.sinabs),
        "JAX scan": hosts.jax_scan,
        f"JAX scan{ALONE}": hosts.jax_alone,
        COMPILED: functools.partial(_after_products, hosts.compiled),
        "nn.LSTM": functools.partial(_gated, nn.LSTM),
        "nn.GRU": functools.partial(_gated, nn.GRU),
    }


def _unit(kind: Callable[..., nn.Module], impl: str, features: int) -> nn.Module:
    found = implementations()[impl]
    if not found.available:
        raise ImportError(found.reason)
    return First(kind(features, impl=impl))


def _after_products(layer: Layer, work: Workload) -> Call:
    return work.train(work.stack(layer))


def _alone(layer: Layer, work: Workload) -> Call:
    return work.train_alone(layer)


def _gated(kind: type[nn.LSTM] | type[nn.GRU], work: Workload) -> Call:
    layers = (First(kind(i, o)) for i, o in itertools.pairwise(work.sizes))
    return work.train(nn.Sequential(*layers))
