"""Write the report of years of use as one HTML page that opens from disk."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from os import PathLike
from pathlib import Path
from typing import Any

from snu_plugin import files
from snu_plugin.report.page import inline

STYLE = """
:root { --paper: #f6f7f9; --card: #ffffff; --ink: #1b1e24; --soft: #5d636e; --line: #e0e3e8; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #0f1114; --card: #171a1f; --ink: #e6e8ec; --soft: #9aa1ad; --line: #2a2e36; }
}
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.6 sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 48px 24px 72px; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 20px; }
figure, pre, table { background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
figure { margin: 0 0 20px; padding: 16px; }
img { max-width: 100%; }
pre { padding: 16px; overflow-x: auto; font-size: 0.85rem; }
table { padding: 10px 16px; margin: 0 0 20px; }
th, td { text-align: left; padding: 4px 18px 4px 0; vertical-align: baseline; }
figcaption, li { color: var(--soft); font-size: 0.9rem; }
"""


def write_page(
    path: str | PathLike[str], record: Mapping[str, Any], picture: str | PathLike[str], text: str
) -> Path:
    """Write picture, tables and what must be known in one file, for light and dark screens.

    Args:
        path: Where the page goes; it is written whole or not at all.
        record: What ``life.json`` holds: ``data``, ``policies``, ``notes``, ``versions``.
        picture: A PNG; it is copied into the page.
        text: The tables as a terminal shows them.

    Returns:
        The path.

    Raises:
        OSError: The picture cannot be read, or the page cannot be written.
    """
    title = escape(f"Years of use: {record['data']}")
    done = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(means)}</td></tr>"
        for name, means in record["policies"].items()
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in record["notes"])
    installed = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body><main>
<h1>{title}</h1>
<figure><img src="{inline(picture)}" alt="the score over years, a line for each way to look after
the chips, and the energy each took">
<figcaption>Mean and standard deviation over chips; a mark is a visit at which chips were
looked after.</figcaption></figure>
<table>{done}</table>
<pre>{escape(text)}</pre>
<ul>{notes}<li>{escape(installed)}</li></ul>
</main></body>
</html>
"""
    return files.write(path, page.encode())
