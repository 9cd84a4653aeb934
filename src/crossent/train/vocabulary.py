"""A byte-pair vocabulary: learnt from the training text alone, the same for the same text, able to spell any text.

Token 0 is padding and never occurs in a text; tokens 1 to 256 are the bytes, so no text is out of vocabulary; every
later token joins two earlier ones. Merges stay inside a piece (a word, a number, a run of punctuation or of white
space, each with the one space before it), so a token is never half of two words.
"""

import heapq
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

Pair = tuple[int, int]


class Vocabulary:
    """Turns text into token ids and back; learn one with `Vocabulary.learn`."""

    def __init__(self, merges: Iterable[Pair]) -> None:
        """Take the merges in the order in which they were learnt; the first makes token `FIRST_MERGE`."""
        self.merges = tuple(merges)
        self._merged = {pair: FIRST_MERGE + rank for rank, pair in enumerate(self.merges)}
        self._spelling = [b"", *(bytes([byte]) for byte in range(256))]
        for left, right in self.merges:
            self._spelling.append(self._spelling[left] + self._spelling[right])
        self._known_pieces: dict[str, list[int]] = {}

    @classmethod
    def learn(cls, text: str, size: int) -> "Vocabulary":
        """Join the most frequent pair of neighbours until there are `size` tokens or no pair occurs twice."""
        return cls(itertools.islice(_learn_merges(text), max(0, size - FIRST_MERGE)))

    def __len__(self) -> int:
        """V: the number of tokens, padding included."""
        return len(self._spelling)

    def encode(self, text: str) -> npt.NDArray[np.int32]:
        """The ids of a text, shape `(tokens,)`."""
        ids = itertools.chain.from_iterable(self._encode_piece(piece) for piece in _PIECE.findall(text))
        return np.fromiter(ids, dtype=np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; a character cut in half by the selection shows as U+FFFD."""
        return b"".join(self._spelling[token] for token in ids).decode("utf-8", errors="replace")

    def _encode_piece(self, piece: str) -> list[int]:
        ids = self._known_pieces.get(piece)
        if ids is None:
            ids = _bytes_of(piece)
            while len(ids) > 1:
                # The earliest merge first: the order of learning is the order of spelling.
                pair = min(itertools.pairwise(ids), key=lambda pair: self._merged.get(pair, len(self)))
                if pair not in self._merged:
                    break
                ids = _join(ids, pair, self._merged[pair])
            self._known_pieces[piece] = ids
        return ids


def _bytes_of(piece: str) -> list[int]:
    return [FIRST_BYTE + byte for byte in piece.encode("utf-8")]


def _join(ids: list[int], pair: Pair, token: int) -> list[int]:
    joined = []
    position = 0
    while position < len(ids):
        if position + 1 < len(ids) and (ids[position], ids[position + 1]) == pair:
            joined.append(token)
            position += 2
        else:
            joined.append(ids[position])
            position += 1
    return joined


def _learn_merges(text: str) -> Iterator[Pair]:
    """Yield pairs, most frequent first, equal counts by smaller ids.

    A merge changes only the pieces that hold its pair, so counts are kept up to date by those alone. The heap keeps
    outdated counts, which are recognised and corrected when they come up.
    """
    pieces = Counter(_PIECE.findall(text))
    spellings = [_bytes_of(piece) for piece in pieces]
    occurrences = list(pieces.values())
    counts: Counter[Pair] = Counter()
    places: defaultdict[Pair, set[int]] = defaultdict(set)
    for index, ids in enumerate(spellings):
        for pair in itertools.pairwise(ids):
            counts[pair] += occurrences[index]
            places[pair].add(index)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    for token in itertools.count(FIRST_MERGE):
        while heap and -heap[0][0] != counts[heap[0][1]]:
            _, outdated = heapq.heappop(heap)
            if counts[outdated] > 0:
                heapq.heappush(heap, (-counts[outdated], outdated))
        if not heap or heap[0][0] > -2:
            return
        _, best = heapq.heappop(heap)
        yield best
        changed: set[Pair] = set()
        for index in places.pop(best):
            before = spellings[index]
            after = _join(before, best, token)
            spellings[index] = after
            for pair in itertools.pairwise(before):
                counts[pair] -= occurrences[index]
            for pair in itertools.pairwise(after):
                counts[pair] += occurrences[index]
                places[pair].add(index)
                changed.add(pair)
        for pair in changed:
            heapq.heappush(heap, (-counts[pair], pair))
