"""The byte-pair vocabulary: it spells any text, is the same each time, and joins what is frequent."""

import itertools
from collections import Counter

import numpy as np
import pytest

from crossent.train.vocabulary import _PIECE, FIRST_MERGE, PADDING, encode, learn

TEXT = "the cat sat on the mat; the_cat sat.\n\n    return the_mat(1, 22)\n" * 5


def decode(ids, merges):
    text = "".join(map(chr, ids))
    for token, pair in reversed(list(enumerate(merges, start=FIRST_MERGE))):
        text = text.replace(chr(token), pair)
    return bytes(ord(one) - 1 for one in text).decode()


@pytest.mark.parametrize(
    "text",
    [TEXT, "", " ", "never seen before: Żółć 日本 🐍 ½ ²\t\r\n x", "the  \n\n  end   ", "\0\x7f", "a" * 1000],
    ids=["learnt", "empty", "space", "unseen", "spaces", "control", "long"],
)
def test_ids_spell_the_text_and_are_never_padding(text):
    merges = learn(TEXT, 300)
    ids = encode(text, merges)
    assert decode(ids, merges) == text
    assert ids.dtype == np.int32
    assert np.all((ids > PADDING) & (ids < 300))


@pytest.mark.parametrize(("text", "pairs"), [("abcdefg", 0), ("ab ab", 1)])
def test_learning_stops_where_no_pair_occurs_twice(text, pairs):
    assert len(learn(text, 5000)) == pairs


def test_the_most_frequent_pair_is_joined_first_and_ties_go_by_id():
    merges = learn("xy xy xy ab ab zab", 260)
    assert [decode([token], merges) for token in range(FIRST_MERGE, 260)] == ["ab", "xy", " ab"]


def test_a_larger_vocabulary_spells_shorter():
    lengths = [len(encode(TEXT, learn(TEXT, size))) for size in (257, 280, 320)]
    assert lengths[0] == len(TEXT.encode())
    assert lengths[0] > lengths[1] > lengths[2]


def test_counts_stay_right_while_merging():
    """The incremental counts choose what counting everything anew after each merge would choose, at any time."""
    merges = learn(TEXT, 300)
    for known, chosen in enumerate(merges):
        spelt = (encode(piece, merges[:known]).tolist() for piece in _PIECE.findall(TEXT))
        counts = Counter(itertools.chain.from_iterable(map(itertools.pairwise, spelt)))
        assert tuple(map(ord, chosen)) == min(counts, key=lambda pair: (-counts[pair], pair))
