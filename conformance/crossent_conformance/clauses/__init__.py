"""The clauses of the contract as tests: a function's name begins with the number of the clause that it checks.

A report knows a case by that number alone. A test therefore asks for its own clause, and fails for no fault of another
where that can be avoided: it has no option that it does not need, targets of int64 unless it is about integers, and no
target so far ahead that a formula cancels unless it is about V1 or V4 (`cases.mild`); or it compares with another call
of the same subject (`agree.alike`) instead of with the oracle. Clauses build on each other in the order V1, V9, V8, V7,
V10, V12, R2, R6: a test that mixes options is of the last clause that it has an option of.

    @pytest.mark.clause("R2", "V9")  # where they are more than the one in the name
    @pytest.mark.places(modes=NOT_DOUBLED, sparse=True, when=lambda place, reduction: ...)
    @pytest.mark.parametrize("reduction", ["mean", "sequence"])
    def test_R2_something(place, subject, reduction):
        logits, targets = cases.random((2, 3), 5)
        agree.with_oracle(place, subject, logits, targets, reduction=reduction)

The fixtures
------------
`place` is a cell of the matrix backend x dtype x mode. It makes the backend's arrays of NumPy values and calls with
them in its mode: `place.evaluate(function, logits, targets, **options)` has NumPy arrays on both sides, `place.call`
gives back the backend's, `place.put` makes one array, `place.pair` logits and targets. `@pytest.mark.places(dtypes=,
modes=, backends=, sparse=, when=)` narrows the matrix; `when` is called with the place and the test's other parameters,
and what it denies is no case. `@pytest.mark.elsewhere` is for a test that asks the subject in another process.

`subject` is the implementation under test (`adapter.UnderTest`), asked by the contract's names:

    subject.loss(logits, targets, **options)              the loss, on the graph of a torch tensor that requires grad
    subject.loss_and_grad(logits, targets, **options)     the loss and d_logits, on no graph; also `grad_output`, `out`
    subject.loss_object(**options)                        forward, backward and a call, like `crossent.CrossEntropyLoss`
    subject.linear_loss(hidden, targets, weight=w, **options), subject.linear_loss_and_grads(...)
    subject.through_identity()                            the linear loss of logits as hidden states, asked as a loss
    subject.measure(name, gradient=False)                 what rows tell besides their loss, a function of logits and of
                                                          the ids, targets or teacher's logits that it is of
    subject.perplexity(loss), subject.shift(logits, token_ids)
    subject.threads(n)                                    a context in which it uses so many threads at most
    subject.drop_in, subject.drop_in_module               what stands for PyTorch's own (D2)
    with subject.unassisted(): ...                        no help with ranks, shapes and integers that it does not take

`shards` is the implementation in several processes, with a shard of the vocabulary each (`shards.Shards`). Only cases
of the clauses P use it; there are such in a run with `--shards` alone.

Soft targets arrive as `targets`, floating and of the shape of the logits. Options are weights, class_weights,
ignore_index, reduction, label_smoothing, smoothing, z_loss, temperature, logit_softcap, denominator, algorithm,
check_targets.

What may happen to a case
-------------------------
- It passes, and the subject was asked: it holds. A case of `crossent` that asks nothing fails.
- `DoesNotApply` (a NotImplementedError), raised by `subject` for what the implementation cannot be asked: the case does
  not apply. A subject without a gradient has the loss checked by `agree.both` and `agree.with_oracle`, which give
  NO_GRADIENT for the gradient; to look at that does not apply either. `pytest.raises` would swallow it: what must be
  refused goes through `agree.refusal`. In a test of many requests, `agree.each` passes over those that do not apply.
- Anything else fails. `evidence` keeps the call that was last made through the place, `units.check` raises the
  `Disagreement` that a report shows, made small by `shrink`. Where `crossent` itself is tested (`pytest conformance`),
  warnings are errors; `crossent conform` does not mind them.

Random inputs come from `cases` (arrays of a seed) and from hypothesis by `@depth.examples`, which also knows how many a
run takes; a slow backend, where a call costs a compilation, is spared some of the cases (`depth.spares`) unless the run
is thorough.
"""
