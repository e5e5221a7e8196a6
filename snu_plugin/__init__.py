"""Spiking Neural Units for snnTorch and Norse, through NIR, on phase-change memory.

A name is loaded when it is first used, so that the command starts without torch (PEP 562).
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as typing says it, which takes as long to load as the rest of the command
if TYPE_CHECKING:
    from typing import Any

    from snu_plugin.acceleration import accelerate
    from snu_plugin.diagnosis import diagnose
    from snu_plugin.neuron import (
        SNU,
        Conv1d,
        Conv2d,
        Linear,
        SNUConfig,
        State,
        implementations,
        snu_scan,
        snu_step,
        sSNU,
    )

__version__ = "0.1.0"

__all__ = [
    "SNU",
    "Conv1d",
    "Conv2d",
    "Linear",
    "SNUConfig",
    "State",
    "accelerate",
    "diagnose",
    "implementations",
    "sSNU",
    "snu_scan",
    "snu_step",
]

_ELSEWHERE = {"accelerate": "acceleration", "diagnose": "diagnosis"}
"""Rooms of names that are not of ``neuron``."""
_ROOMS = ("accelerator", "compiler", "graph", "hil", "plot", "zoo")
"""Rooms that users enter by themselves."""


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    if name not in __all__:
        this = import_module(__name__)
        said = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(said, name=name, obj=this)  # Python then names the nearest
    found = getattr(import_module(f"{__name__}.{_ELSEWHERE.get(name, 'neuron')}"), name)
    globals()[name] = found  # the next use finds it without this function
    return found


def __dir__() -> list[str]:
    return sorted((*__all__, *_ROOMS, "__version__"))
