"""Build the documentation: ``python docs/make/build_site.py`` writes what ``snu docs`` opens.

The pages are the Markdown of this repository as it stands, and notebooks. This gathers them in one
tree, with links that hold there, and gives them to Sphinx, for which any warning is an error: a
broken link, a missing page, a name without a docstring. Needs the extra ``docs``.
"""

from __future__ import annotations

import base64
import io
import json
import posixpath
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SITE = ROOT / "snu_plugin" / "site"
"""Ignored by git; a wheel that is built afterwards takes it along."""

OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "adapters/README.md": "adapters.md",
}
"""Pages that do not lie in ``docs``, and where they are in the site."""

CONTENTS = "contents.md"
"""The order of the pages; it stands, unseen, at the end of the first."""

MOST_MB = 5
"""What the site may take in a wheel."""

LOADED = re.compile(
    r"""(?:\bsrc=|<link\b(?![^>]*\brel="(?:canonical|author)")[^>]*\bhref=|url\(|@import\s)"""
    r"""["']?((?:https?:)?//[^"')\s>]+)"""
)
"""Addresses in the web that a browser asks by itself; links that a reader may follow are none."""

PARTS = (".md", ".ipynb", ".png")

PIECE = re.compile(
    r"^```.*?^```|^    .*?$"  # blocks of code
    r"|(?P<bang>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^()\s]+)\)"
    r"|`[^`\n]+`",
    re.DOTALL | re.MULTILINE,
)
"""Links, and code in which nothing is one."""


def main() -> int:
    """Build the site; the status is not 0 where Sphinx had anything to say."""
    from sphinx.cmd.build import build_main  # type: ignore[import-not-found, unused-ignore]

    shutil.rmtree(SITE, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        source, cache = Path(folder) / "source", Path(folder) / "cache"
        gather(source)
        arguments = ["-q", "-W", "--keep-going", "-c", str(DOCS), "-d", str(cache)]
        status = int(build_main([*arguments, str(source), str(SITE)]))
    for name in (".buildinfo", "objects.inv", "_sources"):
        path = SITE / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for left in SITE.rglob("*.map"):  # where the style came from: for those who write it
        left.unlink()
    mark_wide_pictures(SITE)
    faults = [f"{name} loads {address}" for name, address in from_the_web(SITE)]
    faults += [f"{page}: {text!r} lies in no table" for page, text in rows_apart(SITE)]
    size_mb = sum(path.stat().st_size for path in SITE.rglob("*") if path.is_file()) / 1e6
    if size_mb > MOST_MB:
        faults.append(f"the site takes {size_mb:.1f} MB; a wheel takes {MOST_MB} MB of it")
    print(*faults, f"{SITE}: {size_mb:.1f} MB", sep="\n")
    return status or int(bool(faults))


def from_the_web(site: Path) -> Iterator[tuple[str, str]]:
    """What pages of a site would load from elsewhere, each with the page: there must be nothing."""
    for path in sorted(site.rglob("*")):
        if path.suffix in (".html", ".css"):
            for address in LOADED.findall(path.read_text(encoding="utf-8")):
                yield path.relative_to(site).as_posix(), address


def mark_wide_pictures(site: Path) -> None:
    """Give pictures at least twice as wide as high their class: a narrow window scrolls these."""
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")

        def marked(found: re.Match[str], folder: Path = page.parent) -> str:
            size = (folder / found[2]).read_bytes()[16:24]
            width, height = int.from_bytes(size[:4], "big"), int.from_bytes(size[4:], "big")
            return f'<img class="wide" {found[1]}' if width >= 2 * height else found[0]

        page.write_text(re.sub(r'<img (alt="[^>]*?src="([^"]+\.png)")', marked, text), "utf-8")


def rows_apart(site: Path) -> Iterator[tuple[str, str]]:
    """What begins as a row of a table and is none, each with the page: a line broke the table."""
    for path in sorted(site.rglob("*.html")):
        for row in re.findall(r"<p>\s*(\|[^<\n]{0,40})", path.read_text(encoding="utf-8")):
            yield path.relative_to(site).as_posix(), row


def gather(source: Path) -> None:
    """Write every page and picture of the site into a folder."""
    for place, origin in places().items():
        target = source / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if origin.suffix == ".ipynb":
            pictures: dict[str, bytes] = {}
            text = notebook_page(json.loads(origin.read_text(encoding="utf-8")), origin, pictures)
            for name, picture in pictures.items():
                (target.parent / name).write_bytes(lighter(picture))
            target.write_text(relinked(text, place), encoding="utf-8")
        elif origin.suffix == ".md":
            text = relinked(origin.read_text("utf-8"), place)
            if place == "index.md":
                text += (DOCS / CONTENTS).read_text("utf-8")
            target.write_text(text, encoding="utf-8")
        else:
            target.write_bytes(lighter(origin.read_bytes()))


def lighter(picture: bytes) -> bytes:
    """Return a PNG in 256 colours, as charts need no more, where that takes less room."""
    from PIL import Image

    few = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        colours = image.convert("RGBA").quantize(256, method=Image.Quantize.FASTOCTREE)
        colours.save(few, "PNG", optimize=True)
    return min(picture, few.getvalue(), key=len)


def places() -> dict[str, Path]:
    """All files of the site by their places in it."""
    found = {place: ROOT / path for path, place in OUTSIDE.items()}
    for path in sorted(DOCS.rglob("*")):
        place = path.relative_to(DOCS).as_posix()
        if place.startswith("make/") or path.suffix not in PARTS or place == CONTENTS:
            continue
        found[place.removesuffix(".ipynb") + ".md" if path.suffix == ".ipynb" else place] = path
    return found


def relinked(markdown: str, place: str) -> str:
    """Return a page with links that hold in the site.

    A link to a file that is no page, such as a test or an example, becomes its plain name; one to
    a file that is not there stays, and Sphinx refuses it.

    Args:
        markdown: Text as it stands in the repository.
        place: Where the page lies in the site.
    """
    origins = places()
    pages = {path: name for name, path in origins.items()}
    folder = origins[place].parent

    def link(found: re.Match[str]) -> str:
        bang, text, target = found["bang"], found["text"], found["target"] or ""
        path, hash_, anchor = target.partition("#")
        if ":" in target or not path:
            return found[0]
        origin = (folder / path).resolve()
        if bang:
            text = " ".join(text.split())  # MyST joins the lines of what a picture is to be read as
        if origin in pages:
            where = posixpath.relpath(pages[origin], posixpath.dirname(place) or ".")
            return f"{bang}[{text}]({where}{hash_}{anchor})"
        if origin.exists():
            return f"{text} (`{origin.relative_to(ROOT).as_posix()}`)"
        return found[0]

    return PIECE.sub(link, markdown)


def notebook_page(notebook: dict[str, Any], path: Path, pictures: dict[str, bytes]) -> str:
    """Return a notebook as a page; its pictures are put into ``pictures`` by name."""
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![{cell['metadata']['alt']}]({name})")
            elif words := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
                parts.append(f"```text\n{words}\n```")
    return "\n\n".join([*parts, ""])


if __name__ == "__main__":
    sys.exit(main())
