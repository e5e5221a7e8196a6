"""What a run that can be taken up again leaves on disk: one file, read only as it was written."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from snu_plugin import files

VERSION = 2
"""Of checkpoints with a digest; those before had none."""


def save_checkpoint(file: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values, with a digest; whoever reads finds all of it or none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with files.draft(file) as new:
        torch.save(dict(content) | {"version": VERSION}, new)
        files.add_digest(new)


def load_checkpoint(file: Path) -> dict[str, Any]:
    """Return what ``save_checkpoint`` wrote.

    Raises:
        ValueError: In one line, for a file of which any bit was changed, that broke off, or that
            another version wrote.
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
    return content
