"""A cross-entropy written from the contract alone, in plain NumPy: what the suite must find no fault with.

    crossent conform crossent_conformance.reference:subject

It shares no line and no formula with `crossent`. Every number is a float64, rounded once at the end. `checks` is what
it refuses, `rows` the mathematics of a row, `implementation` the rest of a call, `linear` the loss of hidden states,
`tokens` what rows tell besides their loss.
"""

from crossent_conformance.reference.implementation import LossObject, Reference
from crossent_conformance.reference.linear import LinearReference
from crossent_conformance.reference.tokens import TokensReference, subject

__all__ = ["LinearReference", "LossObject", "Reference", "TokensReference", "subject"]
