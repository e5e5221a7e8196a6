"""What a run that can be taken up again leaves on disk: one file, read only as it was written."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from snu_plugin import files

VERSION = 2
"""Of checkpoints with a digest; those before had none."""
SHOWN = 8
"""Settings that an error names."""


def save_checkpoint(file: Path, content: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Write tensors and plain values, with a digest; whoever reads finds all of it or none.

    Args:
        file: Where; its folder is made if it is missing.
        content: What a run needs to go on.
        settings: JSON values that must be the same then.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    own = {"settings": json.dumps(dict(settings), sort_keys=True), "version": VERSION}
    whole = io.BytesIO()  # on a full disk torch itself ends in an error that does not say so
    torch.save(dict(content) | own, whole)
    with files.draft(file) as new:
        new.write_bytes(whole.getbuffer())
        files.add_digest(new)


def load_checkpoint(file: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``save_checkpoint`` wrote for a run of the same settings.

    Raises:
        ValueError: In one line, for a file of which any bit was changed, that broke off, that
            another version wrote, or that a run with other settings left.
    """
    try:
        if not files.check_digest(file):
            raise ValueError(
                "it should end with the digest of its content, and does not: it broke off or was "
                "changed, or an older version of snu-plugin wrote it, which can still take it up"
            )
        whole = io.BytesIO(file.read_bytes()[: -files.DIGEST_SIZE])
        content: dict[str, Any] = torch.load(whole, weights_only=True)  # never runs code
        found = content["version"]
        then = _leaves(json.loads(content["settings"])) if found == VERSION else {}
    except Exception as error:  # a file of another make raises nearly anything
        why = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{file} is not a whole checkpoint; delete it and start anew ({why})"
        ) from error
    if found != VERSION:
        raise ValueError(
            f"{file} is a checkpoint of version {found}, this release reads {VERSION}; take it up "
            "with the release that wrote it, or delete it and start anew"
        )
    now = _leaves(json.loads(json.dumps(dict(settings))))
    differing = [key for key in sorted(then | now) if then.get(key) != now.get(key)]
    if differing:
        told = ", ".join(
            f"{key:.60} was {then.get(key)!r:.60}, is {now.get(key)!r:.60}"
            for key in differing[:SHOWN]
        )
        told += f" and {len(differing) - SHOWN} more" * (len(differing) > SHOWN)
        raise ValueError(
            f"{file} was left by a run with other settings: {told}; repeat those, or start anew "
            "without resuming"
        )
    return content


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return settings within settings by names such as ``chip.adc_bits``."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        inner = isinstance(value, dict)
        found |= _leaves(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return found
