"""A byte-pair vocabulary: learnt from the training text alone, the same for the same text, able to spell any text.

Token 0 is padding and never occurs in a text; tokens 1 to 256 are the bytes, so no text is out of vocabulary; every
later token joins two earlier ones. Merges stay inside a piece (a word, a number, a run of punctuation or of white
space, each with the one space before it), so a token is never half of two words.

While it is spelt, a text is a string whose characters are token ids: to join a pair of them is `str.replace`.
"""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

PADDING = 0
FIRST_BYTE = 1
FIRST_MERGE = FIRST_BYTE + 256

# The underscore counts as punctuation: names in program text share their parts with ordinary words.
_PIECE = re.compile(r" ?[^\W\d_]+| ?\d+| ?(?:[^\w\s]|_)+|\s+(?!\S)|\s+")


def learn(text: str, size: int) -> list[str]:
    """Join the most frequent pair of neighbours until there are `size` tokens or no pair occurs twice.

    The pairs, in the order in which they were learnt: the first makes token `FIRST_MERGE`.
    """
    return list(itertools.islice(_merges(text), max(0, size - FIRST_MERGE)))


def encode(text: str, merges: Iterable[str]) -> npt.NDArray[np.int32]:
    """The ids of a text, shape `(tokens,)`."""
    # The order of learning is the order of spelling; no pair has the padding that keeps the pieces apart.
    spelling = chr(PADDING).join(map(_spelt, _PIECE.findall(text)))
    for token, pair in enumerate(merges, start=FIRST_MERGE):
        spelling = spelling.replace(pair, chr(token))
    ids = spelling.replace(chr(PADDING), "").encode("utf-32-le", "surrogatepass")
    return np.frombuffer(ids, dtype="<i4").astype(np.int32)


def _spelt(piece: str) -> str:
    return "".join(chr(FIRST_BYTE + byte) for byte in piece.encode("utf-8"))


def _merges(text: str) -> Iterator[str]:
    """Yield pairs, most frequent first, equal counts by smaller ids.

    A merge changes only the pieces that hold its pair, so counts are kept up to date by those alone.
    """
    pieces = Counter(_PIECE.findall(text))
    spellings = [_spelt(piece) for piece in pieces]
    occurrences = list(pieces.values())
    counts: Counter[str] = Counter()
    places: defaultdict[str, set[int]] = defaultdict(set)

    def count(index: int, sign: int) -> None:
        for pair in map("".join, itertools.pairwise(spellings[index])):
            counts[pair] += sign * occurrences[index]
            places[pair].add(index)

    for index in range(len(spellings)):
        count(index, 1)
    for token in itertools.count(FIRST_MERGE):
        most = max(counts.values(), default=0)
        if most < 2:
            return
        best = min(pair for pair, occurs in counts.items() if occurs == most)
        yield best
        for index in places.pop(best):
            count(index, -1)
            spellings[index] = spellings[index].replace(best, chr(token))
            count(index, 1)
