"""The documentation on disk: ``snu docs``."""

from __future__ import annotations

from pathlib import Path

import snu_plugin

SITE = Path(snu_plugin.__file__).with_name("site")
"""A wheel has it; in a clone ``docs/make/build_site.py`` makes it."""


def first_page() -> Path:
    """Return the page to open.

    Raises:
        LookupError: If the documentation is not built here.
    """
    page = SITE / "index.html"
    if not page.is_file():
        raise LookupError(
            f"there is no built documentation in {SITE.parent}; wheels bring it; in a clone type: "
            "pip install -e '.[docs]' && python docs/make/build_site.py"
        )
    return page
