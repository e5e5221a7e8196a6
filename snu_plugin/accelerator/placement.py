"""Where a chip is computed: on the processor, or on an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from snu_plugin.accelerator.devices.model import Cells
from snu_plugin.accelerator.noise import moved_stream
from snu_plugin.accelerator.state import ChipState
from snu_plugin.accepted import shown

CPU = torch.device("cpu")


def checked_device(device: str | torch.device) -> torch.device:
    """Return a device on which chips can be computed.

    Raises:
        ValueError: For another kind of device, or one that is not here.
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device is {shown(device)}; it must be 'cpu' or 'cuda'") from error
    if found.type == "cpu":
        return CPU
    if found.type != "cuda":
        raise ValueError(
            f"device is {str(found)!r}; chips are computed on 'cpu' or 'cuda', since their devices "
            "need float64"
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    number = torch.cuda.current_device() if found.index is None and count else found.index or 0
    if number >= count:
        raise ValueError(
            f"device is {str(found)!r}; torch sees {count} NVIDIA GPUs here, give "
            f"{'cpu' if not count else f'cuda:0 to cuda:{count - 1}'!r}"
        )
    return torch.device("cuda", number)


def moved(state: ChipState, device: torch.device) -> ChipState:
    """Return the same chip on another device; itself where it is there.

    Devices, clock and what is drawn for devices stay what they are. Streams that draw on the device
    itself, of noise on outputs and of what devices' noise does in time, begin anew, seeded by the
    next number of the old one. Neurons that a run left are not kept.
    """
    if device == state.program.device:
        return state

    def there(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(device) for name, value in values.items()}

    new = replace(
        state,
        program=state.program.to(device),
        cells={n: Cells(*(part.to(device) for part in cells)) for n, cells in state.cells.items()},
        slow={
            n: replace(
                noise,
                values=[value.to(device) for value in noise.values],
                clocks_s=list(noise.clocks_s),
            )
            for n, noise in state.slow.items()
        },
        baseline=there(state.baseline),
        spent=dict(state.spent),
    )
    new.registers, new.holds = there(state.registers), there(state.holds)
    new.remembered = there(state.remembered)
    for name, streams in state.streams.items():
        for effect, stream in streams.items():
            new.streams[name][effect].set_state(stream.get_state())
        new.output_bits[name] = moved_stream(state.output_bits[name], device)
        new.flicker_bits[name] = moved_stream(state.flicker_bits[name], device)
    return new
