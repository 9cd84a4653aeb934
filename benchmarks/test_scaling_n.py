"""How does the time for a logit depend on the number of rows?"""

import pytest


@pytest.mark.question("scaling-n")
def test_forward_and_gradient(measure):
    measure()
