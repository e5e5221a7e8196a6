"""No page of the built site is wider than its window, or makes a browser complain."""

import json
import shutil
from pathlib import Path

import pytest

import build_site
from browser import said_in_browser

PROBE = """<script>addEventListener("load", () => console.log(`{place} is wider by ${
  document.documentElement.scrollWidth - innerWidth}`));</script></body>"""


FRAME = """<iframe frameborder="0" width="{width}" height="900"></iframe><script>
const addresses = {addresses}, frame = document.querySelector("iframe");
frame.onload = () => { if (addresses.length) frame.src = addresses.shift(); };
frame.src = addresses.shift();</script>"""
"""One page after the other: all at once, each new layout is one of every page."""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
@pytest.mark.skipif(not build_site.SITE.is_dir(), reason="needs the site: docs/make/build_site.py")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", [0, 1], ids=["dark", "light"])
def test_every_page_fits_its_window_and_nothing_is_complained_of(
    tmp_path: Path, width: int, scheme: int
) -> None:
    site = tmp_path / "site"
    shutil.copytree(build_site.SITE, site)
    places = [
        path.relative_to(site).as_posix()
        for path in sorted(site.rglob("*.html"))
        if not path.name.startswith(("_", "genindex", "search", "py-modindex"))
    ]
    for place in places:
        page = site / place
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace("</body>", PROBE.replace("{place}", place)), encoding="utf-8")
    whole = tmp_path / "frame.html"
    addresses = json.dumps([(site / place).as_uri() for place in places])
    whole.write_text(FRAME.replace("{addresses}", addresses).replace("{width}", str(width)))
    said = said_in_browser(whole, scheme=scheme, milliseconds=20_000, most_s=300)
    assert sorted(said) == sorted(f"{place} is wider by 0" for place in places)
