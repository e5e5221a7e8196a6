"""Make docs/settings.md, every key of a chip's file, from what stands beside the fields.

python docs/make/settings_page.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import page_tables
from snu_plugin.accelerator import Chip, DeviceTables, describe

PAGE = Path(__file__).parents[1] / "settings.md"

HEAD = """# Settings: every key of a chip's file

Made by `docs/make/settings_page.py` from what stands beside the fields of `Chip` and
`DeviceTables`; `snu info --chip NAME|FILE` shows the same with the values of a chip. A file is
TOML, a line `key = value` for each; a key that is not known is refused with the nearest that is.
`"ideal"` says that an effect is left out.

`like = "PCM"` starts from that preset (`IDEAL`, `PCM`, `PCM_PULSED`, `HERMES`) instead of the
defaults below. Most defaults are ideal: a file without `like` that does not say so itself is warned
of, with what is ideal in it. `fit`, the old name of `device`, is read with a notice.
"""
TABLES = """
## `[device]`

A device of your own; see [the guide](own_device.md). `table` is one CSV file for all tables whose
columns it has.
"""


def page() -> str:
    """Return the text of the page."""
    rows = describe(Chip(device=DeviceTables()))
    own = [row for row in rows if row["field"].startswith("device.")]
    return HEAD + _table(row for row in rows if row not in own) + TABLES + _table(own)


def _table(rows: Any) -> str:
    lines = []
    for row in rows:
        default = "ideal" if row["default"] is None else str(row["default"])
        unit = f" ({row['unit'].strip('()')})" if row["unit"] else ""
        source = f"; *{row['source']}*" if row["source"] else ""
        name = row["field"].removeprefix("device.")
        cells = (f"`{name}`", default, row["accepted"] + unit, row["meaning"] + source)
        lines.append([cell.replace("|", "\\|") for cell in cells])
    heads = ("key", "default", "accepted (unit)", "meaning; *its source*")
    return f"\n{page_tables.table(heads, lines)}\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
