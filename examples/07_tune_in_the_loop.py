"""Tune an aged chip in the loop, taught by the network that was written onto it."""

import torch

from snu_plugin import graph, zoo
from snu_plugin.accelerator import PCM, Accelerator
from snu_plugin.compiler import compile
from snu_plugin.hil import fine_tune


def main() -> None:
    """Print the distance to the teacher before and after, and what it cost."""
    g = zoo.read("jsb-snu")
    draw = torch.Generator().manual_seed(0)
    batches = [(torch.rand(20, 16, 88, generator=draw) < 0.05).float() for _ in range(12)]
    chip = Accelerator(compile(g, PCM, sample=batches[0]), seed=0)
    chip.program()
    chip.wait(365 * 86_400)
    chip.calibrate()
    history = fine_tune(chip, batches * 4, teacher=g)
    print(history)
    before, after = history.before or 0.0, history.after or 0.0
    print(f"no worse: {after <= before}")
    test = (torch.rand(20, 16, 88, generator=draw) < 0.05).float()
    error = (chip.run(test)[0] - graph.network(g)(test)[0]).abs().mean().item()
    print(f"logits are off by {error:.2f} on inputs it has not seen")


if __name__ == "__main__":
    main()
