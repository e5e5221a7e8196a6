"""A NIR graph in, a program for a chip out."""

from snu_plugin.compiler.compilation import CannotMap, compile
from snu_plugin.compiler.planning import Plan, plan, saturation_text

__all__ = ["CannotMap", "Plan", "compile", "plan", "saturation_text"]
