"""The byte-pair vocabulary: it spells any text, is the same each time, and joins what is frequent."""

import itertools

import numpy as np
import pytest

from crossent.train.vocabulary import FIRST_MERGE, PADDING, Vocabulary

TEXT = "the cat sat on the mat; the_cat sat.\n\n    return the_mat(1, 22)\n" * 5


@pytest.mark.parametrize(
    "text",
    [TEXT, "", " ", "never seen before: Żółć 日本 🐍 ½ ²\t\r\n x", "the  \n\n  end   ", "\0\x7f", "a" * 1000],
    ids=["learnt", "empty", "space", "unseen", "spaces", "control", "long"],
)
def test_decoding_gives_the_text_back(text):
    vocabulary = Vocabulary.learn(TEXT, 300)
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_ids_are_int32_within_the_vocabulary_and_never_padding():
    vocabulary = Vocabulary.learn(TEXT, 280)
    ids = vocabulary.encode(TEXT + "ÿ")
    assert ids.dtype == np.int32
    assert ids.min() > PADDING
    assert ids.max() < len(vocabulary) == 280


def test_learning_stops_where_no_pair_occurs_twice():
    assert len(Vocabulary.learn("abcdefg", 5000)) == FIRST_MERGE
    assert len(Vocabulary.learn("ab ab", 5000)) == FIRST_MERGE + 1


def test_the_most_frequent_pair_is_joined_first_and_ties_go_by_id():
    vocabulary = Vocabulary.learn("xy xy xy ab ab zab", 260)
    assert [vocabulary.decode([token]) for token in range(FIRST_MERGE, len(vocabulary))] == ["ab", "xy", " ab"]


def test_learning_twice_gives_the_same_merges():
    assert Vocabulary.learn(TEXT, 400).merges == Vocabulary.learn(TEXT, 400).merges


def test_a_larger_vocabulary_spells_shorter():
    lengths = [len(Vocabulary.learn(TEXT, size).encode(TEXT)) for size in (257, 280, 320)]
    assert lengths[0] == len(TEXT.encode())
    assert lengths[0] > lengths[1] > lengths[2]


def test_counts_stay_right_while_merging():
    """The incremental counts choose what counting everything anew after each merge would choose."""
    vocabulary = Vocabulary.learn(TEXT, 300)
    for known in range(len(vocabulary.merges)):
        before = Vocabulary(vocabulary.merges[:known])
        counts = {}
        for piece in _pieces(TEXT):
            ids = before.encode(piece).tolist()
            for pair in itertools.pairwise(ids):
                counts[pair] = counts.get(pair, 0) + 1
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        assert vocabulary.merges[known] == best


def _pieces(text):
    from crossent.train import vocabulary

    return vocabulary._PIECE.findall(text)
