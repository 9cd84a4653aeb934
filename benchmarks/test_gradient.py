"""How long do the loss and its gradient take together, into memory that is there (`out=`) and into fresh memory?"""

import pytest


@pytest.mark.question("gradient")
def test_forward_and_gradient(measure):
    measure()
