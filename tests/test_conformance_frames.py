"""Of a stack, what is the implementation's: of an error, and of what an interpreter leaves that crashed."""

import numpy as np
import pytest

from crossent_conformance import frames
from crossent_conformance.adapter import UnderTest

HERE = str(frames.HERE)
LOG = f"""a warning of an earlier case
corrupted size vs. prev_size
Fatal Python error: Aborted

Thread 0x00007f0000000001 (most recent call first):
  File "/usr/lib/python3/threading.py", line 324 in wait

Current thread 0x00007f0000000000 (most recent call first):
  File "/site/torch/one.py", line 1 in one
  File "/site/torch/two.py", line 2 in two
  File "/site/torch/three.py", line 3 in three
  File "/site/torch/four.py", line 4 in four
  File "/home/me/my_loss.py", line 5 in loss
  File "{HERE}/adapter.py", line 6 in _loss
  File "{HERE}/places.py", line 7 in call
  File "/site/_pytest/python.py", line 8 in pytest_pyfunc_call
  ...

Extension modules: numpy._core._multiarray_umath (total: 1)
"""


def by_a_library(logits, targets):
    """numpy raises."""
    return np.take_along_axis(logits, targets, 7)


def test_a_crash_is_told_by_its_first_frames_and_those_of_the_file():
    told = frames.crashed(LOG, "/home/me/my_loss.py").splitlines()
    assert told == [
        "a warning of an earlier case",
        "corrupted size vs. prev_size",
        "Fatal Python error: Aborted",
        '  File "/site/torch/one.py", line 1, in one',
        '  File "/site/torch/two.py", line 2, in two',
        '  File "/site/torch/three.py", line 3, in three',
        '  File "/home/me/my_loss.py", line 5, in loss',
    ]


def test_a_crash_in_another_thread_tells_who_waited_for_it():
    log = (
        "Windows fatal exception: access violation\n\n"
        "Current thread 0x1 (most recent call first):\n  <no Python frame>\n\n"
        "Thread 0x2 (most recent call first):\n"
        '  File "my_loss.py", line 5 in loss\n'
        f'  File "{HERE}/adapter.py", line 6 in f\n'
    )
    assert frames.crashed(log, "my_loss.py").splitlines()[1:] == ['  File "my_loss.py", line 5, in loss']


def test_a_peer_is_an_implementation():
    log = LOG.replace("/home/me/my_loss.py", f"{HERE}/peers/torch.py")
    told = frames.crashed(log, f"{HERE}/peers/torch.py").splitlines()
    assert told[-1] == f'  File "{HERE}/peers/torch.py", line 5, in loss'


def test_without_a_fatal_error_the_end_is_told():
    assert frames.crashed("  \n", None) == ""
    assert frames.crashed("x" * 5000 + "\nKilled", None).endswith("xxx\nKilled")
    assert len(frames.crashed("x" * 5000, None)) == 1200


def test_an_error_is_told_by_the_line_of_the_file_first():
    under_test = UnderTest(by_a_library, "f")
    assert under_test.file == __file__
    try:
        under_test.loss(np.zeros((1, 2)), np.array([0]))
    except Exception as error:
        told = frames.raised(error, under_test.file)
    assert told[0].function == "by_a_library"
    assert told[0].source == "return np.take_along_axis(logits, targets, 7)"
    assert "numpy" in told[1].file
    assert len(told) == 2


def test_an_error_of_the_suite_is_no_error_of_the_implementation():
    with pytest.raises(AssertionError) as caught:
        np.testing.assert_array_equal(1, 2)
    assert frames.raised(caught.value, "my_loss.py") == []
