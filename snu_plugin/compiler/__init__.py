"""A NIR graph in, a program for a chip out."""

from snu_plugin.compiler.compilation import CannotMap, compile, crossbars
from snu_plugin.compiler.planning import Plan, plan, saturation_text

__all__ = ["CannotMap", "Plan", "compile", "crossbars", "plan", "saturation_text"]
