"""What does a call cost that has next to nothing to do?"""

import pytest


@pytest.mark.question("small-forward")
def test_forward(measure):
    measure()


@pytest.mark.question("small-gradient")
def test_forward_and_gradient(measure):
    measure()


@pytest.mark.question("small-backward")
def test_forward_and_backward(measure):
    measure()
