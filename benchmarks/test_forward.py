"""How long does the loss alone take?"""

import pytest


@pytest.mark.question("forward")
def test_forward(measure):
    measure()
