"""What does a call cost that has next to nothing to do?"""

import pytest


@pytest.mark.question("small-forward", sizes="8x16")
def test_forward(measure):
    measure(small=True)


@pytest.mark.question("small-gradient", sizes="8x16")
def test_forward_and_gradient(measure):
    measure(small=True)
