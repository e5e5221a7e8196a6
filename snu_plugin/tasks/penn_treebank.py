"""Penn Treebank, or any text of the same format, word by word."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["MD5", "Text", "Window", "load", "perplexity", "windows"]

END, UNKNOWN = "<eos>", "<unk>"

MD5 = {
    "train": "f26c4b92c5fdc7b3f8c7cdcb991d8420",
    "valid": "aa0affc06ff7c36e977d7cd49e3839bf",
    "test": "8b80168b89c18661a38ef683c0dc3721",
}
"""Of Mikolov's ``ptb.train.txt``, ``ptb.valid.txt`` and ``ptb.test.txt``."""

NAMES = ("ptb.{}.txt", "{}.txt", "wiki.{}.tokens")


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text in three splits, each ``(tokens,)`` int64."""

    name: str
    """``ptb`` (Mikolov's files) or ``other``: perplexities of these must not be compared."""
    vocabulary: tuple[str, ...]
    """Words of train with ``<eos>``, the most frequent first; ``<unk>`` where it is needed."""
    train: Tensor
    valid: Tensor
    test: Tensor


class Window(NamedTuple):
    """A stretch of the text, time first, ``(T, B)`` int64."""

    x: Tensor
    """Words."""
    target: Tensor
    """The word that follows each."""


def load(path: str | PathLike[str]) -> Text:
    """Load a text from the folder of its three files.

    A line is a sentence, words are separated by blanks, ``<eos>`` is added to each line. The
    vocabulary is that of train; what valid and test have besides becomes ``<unk>``. The Penn
    Treebank is under the LDC user agreement and never downloaded: bring Mikolov's files. Of another
    text it is said, once, that it is not the Mikolov PTB.

    Args:
        path: Folder with ``ptb.train.txt``, ``ptb.valid.txt`` and ``ptb.test.txt``, or the same as
            ``train.txt`` ... or ``wiki.train.tokens`` ...

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is empty or not UTF-8.
    """
    folder = Path(path)
    files = {split: _find(folder, split) for split in MD5}
    contents = {split: file.read_bytes() for split, file in files.items()}
    sums = {s: hashlib.md5(c, usedforsecurity=False).hexdigest() for s, c in contents.items()}
    other = [files[split].name for split in MD5 if sums[split] != MD5[split]]
    if other:
        warnings.warn(
            f"{folder} is not the Mikolov PTB ({', '.join(other)} differ): "
            "its perplexity must not be compared with published ones",
            stacklevel=2,
        )
    words = {split: _words(content, files[split]) for split, content in contents.items()}
    counted = Counter(words["train"])
    ranked = sorted(counted, key=lambda word: (-counted[word], word))
    known = set(ranked)
    if UNKNOWN not in known and any(
        word not in known for split in words.values() for word in split
    ):
        ranked.append(UNKNOWN)
    number = {word: i for i, word in enumerate(ranked)}
    unknown = number.get(UNKNOWN, 0)
    train, valid, test = (
        torch.tensor([number.get(word, unknown) for word in words[split]]) for split in MD5
    )
    name = "other" if other else "ptb"
    return Text(name=name, vocabulary=tuple(ranked), train=train, valid=valid, test=test)


def windows(tokens: Tensor, batch: int, steps: int, *, rest: bool = False) -> Iterator[Window]:
    """Cut a text into parallel streams and these into windows, to be run with carried state.

    As in tensorflow/models ``ptb_word_lm``: ``batch`` streams of equal length side by side, the
    words that are left over dropped; then windows of ``steps`` words, the rest of which is dropped
    too, unless asked for. With ``batch=1`` and ``rest`` every word but the first is predicted once.

    Args:
        tokens: ``(tokens,)`` int64.
        batch: Streams, at least 1.
        steps: Words in a window, at least 1.
        rest: Whether to yield the shorter window that remains at the end.

    Raises:
        ValueError: If the text is too short for one window.

    >>> [w.x.flatten().tolist() for w in windows(torch.arange(6), 1, 2, rest=True)]
    [[0, 1], [2, 3], [4]]
    """
    if batch < 1 or steps < 1:
        raise ValueError(f"batch is {batch} and steps {steps}; both must be at least 1")
    length = len(tokens) // batch
    end = length - 1 if rest else (length - 1) // steps * steps
    if end < 1:
        raise ValueError(
            f"{len(tokens)} tokens are too few for {batch} streams with windows of {steps}"
        )
    streams = tokens[: batch * length].view(batch, length).t()
    for start in range(0, end, steps):
        stop = min(start + steps, end)
        yield Window(streams[start:stop], streams[start + 1 : stop + 1])


def perplexity(total: float, words: int) -> float:
    """Return ``exp(total / words)``: ``total`` cross-entropy in nats over ``words`` predictions."""
    if words < 1 or not math.isfinite(total):
        raise ValueError(f"total is {total} over {words} words; finite, over at least 1, is needed")
    return math.exp(total / words)


def _find(folder: Path, split: str) -> Path:
    for name in NAMES:
        file = folder / name.format(split)
        if file.is_file():
            return file
    raise FileNotFoundError(
        f"{folder} holds none of {', '.join(name.format(split) for name in NAMES)}; give the "
        "folder with train, valid and test"
    )


def _words(content: bytes, file: Path) -> list[str]:
    try:
        lines = content.decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text: {error}") from error
    words = [word for line in lines for word in (*line.split(), END)]
    if len(words) < 2:
        raise ValueError(f"{file} has no words")
    return words
