"""Settings of Sphinx; ``docs/make/build_site.py`` runs it."""

import importlib.metadata
from typing import Any

import sphinx.util.inspect  # type: ignore[import-not-found, unused-ignore]
from pygments.lexers.special import TextLexer

project = "snu-plugin"
release = importlib.metadata.version("snu-plugin")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

html_theme = "furo"
html_static_path = ["style"]
html_css_files = ["pages.css"]
html_title = f"snu-plugin {release}"
html_show_search_summary = False  # a page from disk may not fetch others
html_show_sphinx = html_show_copyright = html_copy_source = html_show_sourcelink = False
html_theme_options: dict[str, Any] = {"top_of_page_buttons": []}
pygments_style, pygments_dark_style = "tango", "github-dark"

myst_heading_anchors = 4
myst_links_external_new_tab = False

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
maximum_signature_line_length = 72
napoleon_use_ivar = True


# Sphinx shows a function of functools.singledispatch once for each type that it knows.
sphinx.util.inspect.is_singledispatch_function = lambda _: False


def setup(app: Any) -> None:
    """Let tables of devices be shown as they are, and texts of attributes be read as texts."""
    app.add_lexer("csv", TextLexer)
    texts: dict[str, list[str]] = {}

    def keep(_: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
        texts[name] = list(lines)

    def restore(_: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
        if what == "attribute":  # Napoleon takes what stands before a colon for its type
            lines[:] = texts[name]

    app.connect("autodoc-process-docstring", keep, priority=400)
    app.connect("autodoc-process-docstring", restore, priority=600)
