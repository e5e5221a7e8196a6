"""A NIR graph in, a program for a chip out."""

from snu_plugin.compiler.compile import CannotMap, compile

__all__ = ["CannotMap", "compile"]
