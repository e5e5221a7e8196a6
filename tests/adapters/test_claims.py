"""Every adapter keeps every promise."""

import pytest

from snu_plugin import simulators
from snu_plugin.testing import CLAIMS, Claim


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.__name__)
@pytest.mark.parametrize("name", ["norse", "snntorch"])
def test_adapter(name: str, claim: Claim) -> None:
    claim(simulators.adapter(name))
