"""A NIR graph in, a program for a chip out."""

from snu_plugin.compiler.compile import CannotMap, compile
from snu_plugin.compiler.plan import Plan, plan

__all__ = ["CannotMap", "Plan", "compile", "plan"]
