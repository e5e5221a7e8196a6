"""Ask why a network is silent, mend what is named, and ask again."""

import torch
from torch import nn

import snu_plugin as sp
import snu_snntorch as st


def network(threshold: float) -> nn.Sequential:
    """Return 20-32-4 with thresholds of the first layer as given."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(20, 32),
        st.SNUSequence(beta=0.8, threshold=threshold),
        nn.Linear(32, 4),
        st.SNUSequence(beta=0.8, threshold=0.1),
    )


def main() -> None:
    """Print the findings for a threshold out of reach, and how many are left with a lower one."""
    x = (torch.rand(25, 16, 20) < 0.3).float()
    for threshold in (50.0, 0.3):
        found = sp.diagnose(network(threshold), x)
        print(f"threshold {threshold:g}: {'nothing is wrong' if not found else 'findings'}")
        if found:
            print(found)


if __name__ == "__main__":
    main()
