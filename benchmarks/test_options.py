"""How long do the loss and its gradient take with label smoothing, z-loss and ignored tokens?"""

import pytest


@pytest.mark.question("options")
def test_forward_and_gradient_with_options(measure):
    measure()
