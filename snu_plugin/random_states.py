"""Where the random numbers of torch, NumPy and Python stand, which any code may draw."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


def random_states() -> tuple[Any, ...]:
    """Return where they stand, on the processor; two of these can be compared."""
    numpy: Any = np.random.get_state()  # noqa: NPY002  (users draw from it)
    return bytes(torch.get_rng_state().numpy()), random.getstate(), bytes(numpy[1]), numpy[2:]


@contextmanager
def undisturbed(*tensors: Tensor) -> Iterator[None]:
    """Leave them as they are, those of the GPUs that ``tensors`` lie on too."""
    gpus = {t.device for t in tensors if t.is_cuda}
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  (users draw from it)
    try:
        with torch.random.fork_rng(sorted(gpus, key=str)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
