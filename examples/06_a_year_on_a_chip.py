"""A trained network on a chip for a year: left alone, recalibrated, written again."""

import torch

from snu_plugin import graph, zoo
from snu_plugin.accelerator import PCM, Accelerator
from snu_plugin.compiler import compile

DAY = 86_400.0


def main() -> None:
    """Print how many outputs of a chorale network change their sign against those of torch."""
    g = zoo.read("jsb-snu")
    x = (torch.rand(40, 8, 88, generator=torch.Generator().manual_seed(0)) < 0.05).float()
    expected = graph.network(g)(x)[0].detach()
    program = compile(g, PCM, sample=x)
    chip = Accelerator(program, seed=0)

    def off(name: str) -> None:
        error = (chip.run(x)[0] - expected).square().mean() / expected.square().mean()
        print(f"{name:22} {float(error) ** 0.5:6.1%} of the outputs' size")

    chip.program()
    off("written")
    chip.wait(365 * DAY)
    off("a year later")
    chip.calibrate()
    off("recalibrated")
    chip.program()
    off("written again")
    print(f"{program.devices:,} devices on {program.tile_count} tiles; spent:")
    for what, spent in chip.spent.items():
        print(f"  {what}: {spent}")


if __name__ == "__main__":
    main()
