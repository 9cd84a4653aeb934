"""How does the time of as many logits depend on the vocabulary, from two classes to a million?"""

import pytest


@pytest.mark.question("scaling-v")
def test_forward_and_gradient(measure):
    measure()
