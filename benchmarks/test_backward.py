"""How long do a framework's own forward and backward take with this loss on its graph?"""

import pytest


@pytest.mark.question("backward")
def test_forward_and_backward(measure):
    measure()
