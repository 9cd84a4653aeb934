"""What do more threads bring?"""

import pytest


@pytest.mark.question("threads")
def test_forward_and_gradient(measure):
    measure()
