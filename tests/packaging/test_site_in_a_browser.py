"""No page of the built site is wider than its window, or makes a browser complain."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import build_site

PROBE = """<script>addEventListener("load", () => console.log(`{place} is wider by ${
  document.documentElement.scrollWidth - innerWidth}`));</script></body>"""


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
    frames = []
    for place in places:
        page = site / place
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace("</body>", PROBE.replace("{place}", place)), encoding="utf-8")
        frames.append(f'<iframe src="{page.as_uri()}" width="{width}" height="900"></iframe>')
    whole = tmp_path / "frames.html"
    whole.write_text("".join(frames).replace("<iframe", '<iframe frameborder="0"'))
    ran = subprocess.run(
        ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom",
         "--hide-scrollbars", "--enable-logging=stderr", "--virtual-time-budget=20000",
         f"--blink-settings=preferredColorScheme={scheme}", "--window-size=1400,1000",
         whole.as_uri()],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    said = re.findall(r'CONSOLE.*?"(.*?)"', ran.stderr)
    assert sorted(said) == sorted(f"{place} is wider by 0" for place in places)
