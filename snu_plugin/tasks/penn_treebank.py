"""Penn Treebank, or any text of the same format, word by word."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["MD5", "Text", "Window", "load", "perplexity", "plain", "windows"]

END, UNKNOWN = "<eos>", "<unk>"

MD5 = {
    "train": "f26c4b92c5fdc7b3f8c7cdcb991d8420",
    "valid": "aa0affc06ff7c36e977d7cd49e3839bf",
    "test": "8b80168b89c18661a38ef683c0dc3721",
}
"""Of Mikolov's ``ptb.train.txt``, ``ptb.valid.txt`` and ``ptb.test.txt``."""

NAMES = ("ptb.{}.txt", "{}.txt", "wiki.{}.tokens")

VOCABULARY = 10_000
"""Words of Mikolov's PTB, ``<eos>`` and ``<unk>`` among them."""
SHARES = {"train": 0.9, "valid": 0.05, "test": 0.05}
"""Of the lines of a plain text, in this order; ours, as is usual for tinyshakespeare."""
NUMBER, PUNCTUATION = re.compile(r"[^a-z]*\d[^a-z]*"), ".,;:!?\"'`()[]{}<>*_=-–—“”‘’…"


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text in three splits, each ``(tokens,)`` int64."""

    name: str
    """``ptb`` (Mikolov's files) or ``other: `` and what the file or folder is called: perplexities
    of different texts must not be compared."""
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
    """Load a text from the folder of its three files, or from one file of plain text.

    A line is a sentence, words are separated by blanks, ``<eos>`` is added to each line. The
    vocabulary is that of train; what valid and test have besides becomes ``<unk>``. The Penn
    Treebank is under the LDC user agreement and never downloaded: bring Mikolov's files. Of another
    text it is said, once, that it is not the Mikolov PTB. A single file is first cut and written
    as ``plain`` says.

    Args:
        path: Folder with ``ptb.train.txt``, ``ptb.valid.txt`` and ``ptb.test.txt``, or the same as
            ``train.txt`` ... or ``wiki.train.tokens`` ...; or a file.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is empty, too short to be cut, or not UTF-8.
    """
    path = Path(path)
    if path.is_file():
        _warn(path, "a plain text")
        parts = plain(_lines(path.read_bytes(), path))
        if empty := [split for split, sentences in parts.items() if not sentences]:
            raise ValueError(
                f"{path} has too few lines with words: none are left for {' and '.join(empty)}; "
                "give a text of 20 lines or more"
            )
        return _text(f"other: {path.name}", parts)
    files = {split: _find(path, split) for split in MD5}
    contents = {split: file.read_bytes() for split, file in files.items()}
    sums = {s: hashlib.md5(c, usedforsecurity=False).hexdigest() for s, c in contents.items()}
    other = [files[split].name for split in MD5 if sums[split] != MD5[split]]
    if other:
        _warn(path, f"{', '.join(other)} differ")
    sentences = {
        split: [line.split() for line in _lines(content, files[split])]
        for split, content in contents.items()
    }
    return _text(f"other: {path.resolve().name}" if other else "ptb", sentences)


def plain(lines: Iterable[str]) -> dict[str, list[list[str]]]:
    """Write a plain text as Mikolov wrote the Penn Treebank, and cut it into splits.

    Words in lower case and without the punctuation around them, numbers as ``N``, lines without
    words left out; of the words of train the most frequent, ``<eos>`` and ``<unk>`` included
    ``VOCABULARY`` in all, the others ``<unk>``; ``SHARES`` of the lines for each split. The
    words of a text that has ``<unk>`` are written so already and stay.

    Returns:
        The words of every line, by split.

    >>> plain(["To be, or not to be:", "", "that is 1 question!"])["train"]
    [['to', 'be', 'or', 'not', 'to', 'be'], ['that', 'is', 'N', 'question']]
    """
    raw = [line.split() for line in lines]
    if not any(UNKNOWN in words for words in raw):
        raw = [[w for w in map(_word, words) if w] for words in raw]
    written = [words for words in raw if words]
    ends = [round(share * len(written)) for share in itertools.accumulate(SHARES.values())]
    cuts = zip(SHARES, itertools.pairwise([0, *ends]), strict=True)
    splits = {split: written[start:stop] for split, (start, stop) in cuts}
    known = (w for w in itertools.chain.from_iterable(splits["train"]) if w != UNKNOWN)
    kept = set(_ranked(known)[: VOCABULARY - 2])
    return {
        split: [[w if w in kept else UNKNOWN for w in words] for words in part]
        for split, part in splits.items()
    }


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
        "folder with train, valid and test, or one file of plain text"
    )


def _lines(content: bytes, file: Path) -> list[str]:
    try:
        lines = content.decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text: {error}; save it as such") from error
    if not any(line.strip() for line in lines):
        raise ValueError(f"{file} has no words; give a text")
    return lines


def _word(raw: str) -> str:
    word = raw.lower()
    return "N" if NUMBER.fullmatch(word) else word.strip(PUNCTUATION)


def _ranked(words: Iterable[str]) -> list[str]:
    """Return the different words, the most frequent first."""
    counted = Counter(words)
    return sorted(counted, key=lambda word: (-counted[word], word))


def _text(name: str, sentences: dict[str, list[list[str]]]) -> Text:
    """Number the words, the most frequent of train first."""
    words = {
        split: [word for sentence in part for word in (*sentence, END)]
        for split, part in sentences.items()
    }
    ranked = _ranked(words["train"])
    known = set(ranked)
    if UNKNOWN not in known and any(w not in known for split in words.values() for w in split):
        ranked.append(UNKNOWN)
    number = {word: i for i, word in enumerate(ranked)}
    unknown = number.get(UNKNOWN, 0)
    train, valid, test = (
        torch.tensor([number.get(word, unknown) for word in words[split]], dtype=torch.int64)
        for split in MD5
    )
    return Text(name=name, vocabulary=tuple(ranked), train=train, valid=valid, test=test)


def _warn(path: Path, why: str) -> None:
    warnings.warn(
        f"{path} is not the Mikolov PTB ({why}): "
        "its perplexity must not be compared with published ones",
        stacklevel=3,
    )
