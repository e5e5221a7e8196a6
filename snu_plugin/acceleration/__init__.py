"""A stock network of a host on the fused path: the same outputs and gradients, sooner."""

from snu_plugin.acceleration.network import Accelerated, accelerate
from snu_plugin.acceleration.neurons import Rule

__all__ = ["Accelerated", "Rule", "accelerate"]
