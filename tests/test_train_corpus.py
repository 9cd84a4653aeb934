"""The text as windows: split, padded, every validation token a target once; and what cannot be learnt from."""

import numpy as np
import pytest

import crossent
from crossent.info import UsageError
from crossent.train.corpus import prepare, read, split
from crossent.train.vocabulary import PADDING, encode, learn

TEXT = "".join(f"line {number} of a text that says {number % 7} things\n" for number in range(300))


@pytest.fixture(scope="module")
def corpus():
    return prepare(TEXT, "a text", 300, 16)


def test_the_split_keeps_every_character_once():
    text = "".join(chr(97 + i % 26) for i in range(1003))
    training, validation = split(text)
    assert len(training) + len(validation) == len(text)
    assert 0.08 < len(validation) / len(text) < 0.12
    assert sorted(training + validation) == sorted(text)


def test_every_validation_token_but_the_first_is_a_target_once(corpus):
    training, validation = split(TEXT)
    ids = encode(validation, learn(training, 300))
    assert corpus.V == 300
    np.testing.assert_array_equal(corpus.validation_targets, ids[1:])
    np.testing.assert_array_equal(corpus.validation[1:, 0], corpus.validation[:-1, -1])
    assert corpus.validation.shape[1] == 17
    assert np.all(corpus.validation[:-1] != PADDING)


def test_batches_are_windows_of_the_training_part_and_follow_the_seed(corpus):
    first, second = (next(corpus.batches(seed, 8, 16)) for seed in (3, 3))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, next(corpus.batches(4, 8, 16)))
    assert first.shape == (8, 17)
    assert first.dtype == np.int32
    windows = np.lib.stride_tricks.sliding_window_view(corpus.training, 17)
    assert all((windows == row).all(axis=1).any() for row in first)


def test_unigram_perplexity_is_that_of_the_loss(corpus):
    counts = np.bincount(corpus.training, minlength=corpus.V) + 1.0
    targets = corpus.validation_targets
    logits = np.broadcast_to(np.log(counts), (len(targets), len(counts)))
    expected = crossent.perplexity(crossent.cross_entropy(logits, targets))
    np.testing.assert_allclose(corpus.unigram_perplexity(), expected, rtol=1e-12)


def test_by_default_the_text_is_the_language_reference():
    text, source = read(None)
    assert len(text) > 300_000
    assert "assignment" in text
    assert source == "Python's language reference"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b" \n\t", "is empty"),
        (b"\xff\xfe\x00a", "is not UTF-8 text: byte 0 is 0xff"),
        (b"GIF\0\0", "is not text: it holds NUL characters"),
    ],
    ids=["blank", "other-encoding", "binary"],
)
def test_a_file_without_text_is_refused(tmp_path, content, message):
    path = tmp_path / "given"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read(path)


def test_the_shortest_text_that_is_accepted_has_one_window():
    letters = "".join(chr(97 + i % 26) + chr(65 + i // 26) for i in range(100))
    corpus = prepare(letters, "letters", 258, 16)
    assert corpus.validation.shape[0] * 16 >= len(corpus.validation_targets) > 0
