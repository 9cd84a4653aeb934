"""The conformance suite: the contract of docs/specification.md, checked on every backend, device, dtype and mode.

    pytest conformance                                   every backend that is installed
    pytest conformance --backend numpy --backend torch   these only
    pytest conformance --subject package.module:subject  somebody else's cross-entropy

The rooms: `oracle` (60-digit reference values), `units` (errors in the contract's units), `backends` (array libraries
and the ways to hand arrays over), `places` (the matrix), `subject` (how the suite sees an implementation), `cases`
(inputs). A test knows an implementation only through its subject, an array library only through its place, and takes
two fixtures:

    def test_V1_something(place, subject):
        logits = place.round(values)                                   # the exact values that the dtype holds
        loss, d_logits = place.evaluate(subject.loss_and_grad, logits, targets, reduction="none")    # NumPy in and out
        exact_loss, exact_gradient = oracle.cross_entropy(logits, targets, reduction="none")
        units.check(loss, exact_loss, place.compute_dtype)
        units.check(d_logits, exact_gradient, place.compute_dtype, stored=place.dtype)

`@pytest.mark.places(dtypes=..., modes=..., backends=..., sparse=True)` narrows the matrix for one test (see
`places.places`); `@pytest.mark.clause("V1")` and the function's name say what it checks. Tests whose body is
nothing but "the subject agrees with the oracle on these arrays and options" call `agree.with_oracle(place, subject,
logits, targets, **options)`.
"""
