"""Test vectors for implementations in any language: conformance/vectors/README.md says what they hold.

    python -m crossent_conformance.vectors --write conformance/vectors    make them again
    python -m crossent_conformance.vectors --check conformance/vectors    compare the files with what would be written

    for case in vectors.read("conformance/vectors"):
        logits, targets, options = case.arguments()
        loss, d_logits = some_cross_entropy_and_grad(logits.astype(case.dtype), targets, **options)
        assert case.worst(loss, d_logits) <= 1

`cases` reads the files, and knows nothing of how they were made. `answers` has the oracle's answers to what they ask,
and none of its own; `files` writes both.
"""

from crossent_conformance.vectors.cases import Case, read

__all__ = ["Case", "read"]
