"""A page in a headless Chromium, and what is said there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path


def said_in_browser(page: Path, *, scheme: int, milliseconds: int, most_s: float) -> list[str]:
    """Return what a page writes to the console.

    Args:
        page: An HTML file.
        scheme: The preferred colours, 0 dark and 1 light.
        milliseconds: The page's own time that it is given.
        most_s: Seconds after which the test fails.
    """
    ran = subprocess.run(
        ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom",
         "--hide-scrollbars", "--enable-logging=stderr", f"--virtual-time-budget={milliseconds}",
         f"--blink-settings=preferredColorScheme={scheme}", "--window-size=1400,1000",
         page.as_uri()],
        capture_output=True, text=True, check=True, timeout=most_s,
    )  # fmt: skip
    return re.findall(r'CONSOLE.*?"(.*?)"', ran.stderr)
