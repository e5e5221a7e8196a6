"""What every test of an adapter begins with."""

from collections.abc import Iterator

import pytest
import snntorch
import torch


@pytest.fixture(autouse=True)
def _seeded_and_alone() -> Iterator[None]:
    """Seed torch, and have snnTorch, which lists all neurons, forget those of this test."""
    count = len(snntorch.SpikingNeuron.instances)
    torch.manual_seed(0)
    yield
    del snntorch.SpikingNeuron.instances[count:]
