"""The text as arrays: read, split, tokenised, cut into windows. NumPy only, and the same for the same text.

The split is by stretches: the text is cut into ten, and the last tenth of each is for validation, so that both parts
hold all its subjects. The vocabulary is learnt from the training part alone.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from crossent.info import UsageError, printable
from crossent.train.vocabulary import FIRST_MERGE, PADDING, encode, learn

Ids = npt.NDArray[np.int32]

STRETCHES = 10


@dataclass(frozen=True)
class Corpus:
    """A tokenised text and what is known of it before any training."""

    source: str
    characters: int
    V: int
    """How many tokens the vocabulary has, padding included."""
    training: Ids
    """Shape `(tokens,)`."""
    validation: Ids
    """Shape `(windows, seq + 1)`: consecutive windows share one token, the last one ends in padding."""

    @property
    def validation_targets(self) -> Ids:
        """Every validation token that has one before it, each once."""
        targets = self.validation[:, 1:]
        counted: Ids = targets[targets != PADDING]
        return counted

    def unigram_perplexity(self) -> float:
        """The validation perplexity of knowing how often each token occurs in the training part, and nothing else."""
        counts = np.bincount(self.training, minlength=self.V) + 1.0
        log_probabilities = np.log(counts / counts.sum())
        return float(np.exp(-log_probabilities[self.validation_targets].mean()))

    def batches(self, seed: int, batch: int, seq: int) -> Iterator[Ids]:
        """Random windows of the training part, shape `(batch, seq + 1)`, without end."""
        rng = np.random.default_rng(seed)
        windows = sliding_window_view(self.training, seq + 1)
        while True:
            yield windows[rng.integers(0, len(windows), size=batch)]


def read(path: Path | None) -> tuple[str, str]:
    """The text and what to call it: a file, or without one the language reference that every CPython carries."""
    if path is None:
        try:
            topics = importlib.import_module("pydoc_data.topics").topics
        except ImportError as error:
            raise UsageError("this Python does not carry its language reference; give a text with --text") from error
        return "\n\n".join(topics.values()), "Python's language reference"
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}") from error
    if "\0" in text:
        raise UsageError(f"{path} is not text: it holds NUL characters")
    if not text.strip():
        raise UsageError(f"{path} is empty")
    return text, printable(path.name)


def split(text: str) -> tuple[str, str]:
    """The training and the validation part."""
    edges = [len(text) * stretch // STRETCHES for stretch in range(STRETCHES + 1)]
    training, validation = [], []
    for start, stop in itertools.pairwise(edges):
        middle = stop - (stop - start) // STRETCHES
        training.append(text[start:middle])
        validation.append(text[middle:stop])
    return "".join(training), "".join(validation)


def prepare(text: str, source: str, size: int, seq: int) -> Corpus:
    """Learn a vocabulary of at most `size` tokens and cut the text into windows of `seq` tokens and their next ones."""
    if size <= FIRST_MERGE:
        raise UsageError(f"a vocabulary of {size} tokens is too small; accepted: more than {FIRST_MERGE}")
    training_text, validation_text = split(text)
    merges = learn(training_text, size)
    training, validation = encode(training_text, merges), encode(validation_text, merges)
    if len(training) <= seq or len(validation) < 2:
        raise UsageError(
            f"{source} is too short: {len(training)} training and {len(validation)} validation tokens; "
            f"needed: {seq + 1} and 2"
        )
    padded = np.pad(validation, (0, -(len(validation) - 1) % seq), constant_values=PADDING)
    windows = sliding_window_view(padded, seq + 1)[::seq]
    return Corpus(source, len(text), FIRST_MERGE + len(merges), training, windows)
