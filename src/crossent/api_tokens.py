"""The public functions of what a row tells besides its loss: signature, docstring, one line each."""

from __future__ import annotations

from typing import Any

from crossent import problem, problem_tokens, topk
from crossent.description import TokenStatistics
from crossent.libraries import Inputs
from crossent.math.measures import DIRECTIONS, ENTROPY, FORWARD
from crossent.options import Options, choice, shown
from crossent.types import A, Array, Denominator, Direction, Reduction, Tail


def token_log_probs(
    logits: A,
    token_ids: Array,
    *,
    weights: Array | None = None,
    ignore_index: int | None = None,
    temperature: float = 1.0,
    logit_softcap: float | None = None,
    check_targets: bool = True,
    engine: str = "auto",
) -> A:
    """The logarithms of the probabilities that logits give to chosen tokens.

        log p_t = x_t − log Σ_j exp x_j

    It is the negative of the loss of `cross_entropy`, to the bit, for one token a position, and as exact for several:
    never above 0, and never half-precision.

    Parameters
    ----------
    logits
        Floating array of shape (..., V), of any library that `cross_entropy` serves.
    token_ids
        Integer array of shape (...), or (..., K) for several tokens a position, in one walk.
    weights
        Array broadcastable to (...): a factor of each position; 0 for one that does not count, whatever it holds.
    ignore_index
        A token that marks what does not count.
    temperature, logit_softcap, check_targets, engine
        As for `cross_entropy`.

    Returns
    -------
    Array
        In nats, of the shape of `token_ids`, and the dtype of the loss: float32 for half-precision logits, else that of
        `logits`. 0 where a token does not count. It is differentiable by torch and JAX.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, naming what was given and what is accepted.
    IndexError
        For a token outside the vocabulary that is not `ignore_index`, naming its position.

    Examples
    --------
    >>> import numpy as np
    >>> logits = np.array([[20.0, 0.0, 0.0]], dtype=np.float32)
    >>> for log_prob in token_log_probs(logits, np.array([[0, 2]]))[0]:
    ...     print(f"{log_prob:.5g}")
    -4.1223e-09
    -20
    """
    options = _options(ignore_index, temperature, logit_softcap, check_targets, engine)
    found: A = problem_tokens.log_probs(Inputs(logits, token_ids, weights), options)
    return found


def token_log_probs_and_grad(
    logits: A,
    token_ids: Array,
    out: Array | None = None,
    grad_output: Array | None = None,
    *,
    weights: Array | None = None,
    ignore_index: int | None = None,
    temperature: float = 1.0,
    logit_softcap: float | None = None,
    check_targets: bool = True,
    engine: str = "auto",
) -> tuple[A, A]:
    """The log-probabilities of chosen tokens and the gradient of the logits, outside any framework's graph.

    The parameters that are not named here, and the errors, are those of `token_log_probs`.

    Parameters
    ----------
    out
        Array of the shape and dtype of `logits` that receives the gradient; `logits` itself will do.
    grad_output
        The gradient of what follows with respect to the log-probabilities, of their shape; default 1 for each.

    Returns
    -------
    log_probs : Array
        As `token_log_probs` returns them.
    d_logits : Array
        Of the shape and dtype of `logits`; for one token a position [j = t] − p_j.

    Examples
    --------
    >>> import numpy as np
    >>> log_probs, d_logits = token_log_probs_and_grad(np.array([[0.0, 0.0]]), np.array([1]))
    >>> print(log_probs, d_logits)
    [-0.69314718] [[-0.5  0.5]]
    """
    options = _options(ignore_index, temperature, logit_softcap, check_targets, engine)
    inputs = Inputs(logits, token_ids, weights)
    found: tuple[A, A] = problem_tokens.log_probs_and_gradient(inputs, options, grad_output, out)
    return found


def token_statistics(
    logits: Array,
    targets: Array,
    *,
    ignore_index: int | None = None,
    temperature: float = 1.0,
    logit_softcap: float | None = None,
    check_targets: bool = True,
    engine: str = "auto",
) -> TokenStatistics:
    """What rows of logits tell of their targets, in one walk: how likely, how sure, and what is likelier.

    Parameters
    ----------
    logits
        Floating array of shape (..., V), of any library that `cross_entropy` serves.
    targets
        Integer array of shape (...).
    ignore_index, temperature, logit_softcap, check_targets, engine
        As for `cross_entropy`.

    Returns
    -------
    TokenStatistics
        ``loss``, ``log_prob``, ``log_sum_exp``, ``entropy``, ``rank`` and ``most_likely``, each of the shape of
        `targets`. torch and JAX differentiate the first four. The rank counts larger logits, of which temperature and
        softcap keep the order; those that tie with the target's do not count.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `cross_entropy` does; and TypeError for soft targets.

    Examples
    --------
    >>> import numpy as np
    >>> found = token_statistics(np.array([[0.0, 1.0, 2.0, -np.inf]]), np.array([1]))
    >>> for name, x in found._asdict().items():
    ...     print(f"{name:12}{x[0]:.6g}")
    loss        1.40761
    log_prob    -1.40761
    log_sum_exp 2.40761
    entropy     0.832396
    rank        1
    most_likely 0
    """
    options = _options(ignore_index, temperature, logit_softcap, check_targets, engine)
    return problem_tokens.statistics(Inputs(logits, targets), options)


def linear_token_log_probs(
    hidden: A,
    weight: A,
    token_ids: Array,
    *,
    bias: Array | None = None,
    classes: int | None = None,
    memory: int | None = None,
    weights: Array | None = None,
    ignore_index: int | None = None,
    temperature: float = 1.0,
    logit_softcap: float | None = None,
    check_targets: bool = True,
    engine: str = "auto",
) -> A:
    """The log-probabilities of chosen tokens under the logits hidden·weightᵀ + bias, made a block of tokens at a time.

    The parameters are those of `linear_cross_entropy` and `token_log_probs`; so are the result and the errors. Of
    several tokens a position, which torch or JAX is to differentiate, each takes a walk of its own.

    Examples
    --------
    >>> import numpy as np
    >>> print(linear_token_log_probs(np.ones((1, 2)), np.eye(3, 2), np.array([[0, 2]])).round(6))
    [[-0.861995 -1.861995]]
    """
    options = _options(ignore_index, temperature, logit_softcap, check_targets, engine)
    inputs = Inputs(hidden, token_ids, weights, head=weight, bias=bias)
    found: A = problem_tokens.log_probs(inputs, options, classes, memory)
    return found


def linear_token_statistics(
    hidden: Array,
    weight: Array,
    targets: Array,
    *,
    bias: Array | None = None,
    classes: int | None = None,
    memory: int | None = None,
    ignore_index: int | None = None,
    temperature: float = 1.0,
    logit_softcap: float | None = None,
    check_targets: bool = True,
    engine: str = "auto",
) -> TokenStatistics:
    """What the logits hidden·weightᵀ + bias tell of their targets, made a block of tokens at a time.

    The parameters are those of `linear_cross_entropy` and `token_statistics`; so are the result and the errors.

    Examples
    --------
    >>> import numpy as np
    >>> found = linear_token_statistics(np.ones((1, 2)), np.eye(3, 2), np.array([2]))
    >>> print(found.rank, found.most_likely)
    [2.] [False]
    """
    options = _options(ignore_index, temperature, logit_softcap, check_targets, engine)
    return problem_tokens.statistics(Inputs(hidden, targets, head=weight, bias=bias), options, classes, memory)


def entropy(
    logits: A,
    *,
    weights: Array | None = None,
    denominator: Denominator = None,
    reduction: Reduction = "none",
    temperature: float = 1.0,
    logit_softcap: float | None = None,
    engine: str = "auto",
) -> A:
    """The entropy of the distributions that logits stand for, in nats.

        H = −Σ_j p_j·log p_j = log1p(S) + Σ_j p_j·(m − x_j)        S = Σ exp(x_j − m) but for one that is the maximum m

    Every term of the second form is at least 0, so a confident row's entropy keeps all its digits.

    Parameters
    ----------
    logits
        Floating array of shape (..., V), of any library that `cross_entropy` serves.
    weights, denominator, reduction
        As for `cross_entropy`, but that every row's entropy is returned where no reduction is named.
    temperature, logit_softcap, engine
        As for `cross_entropy`.

    Returns
    -------
    Array
        From 0 to log V; of the shape that the reduction leaves of (...) and the dtype of the loss. It is
        differentiable by torch and JAX.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, naming what was given and what is accepted.

    References
    ----------
    C. E. Shannon, "A Mathematical Theory of Communication", 1948.

    Examples
    --------
    >>> import numpy as np
    >>> entropy(np.array([[0.0, 0.0], [0.0, -np.inf], [0.0, -50.0]]))
    array([6.93147181e-01, 0.00000000e+00, 9.83662422e-21])
    """
    options = _measure(ENTROPY, reduction, temperature, logit_softcap, engine)
    found: A = problem.loss(Inputs(logits, None, weights, None, denominator), options)
    return found


def entropy_and_grad(
    logits: A,
    out: Array | None = None,
    grad_output: Array | float | None = None,
    *,
    weights: Array | None = None,
    denominator: Denominator = None,
    reduction: Reduction = "none",
    temperature: float = 1.0,
    logit_softcap: float | None = None,
    engine: str = "auto",
) -> tuple[A, A]:
    """The entropy and its gradient with respect to the logits, in one pass, outside any framework's graph.

    The parameters are those of `entropy`, and `out` and `grad_output` as for `cross_entropy_and_grad`.

    Returns
    -------
    entropy : Array
        As `entropy` returns it.
    d_logits : Array
        Of the shape and dtype of `logits`: −p_j·(log p_j + H) of each row.

    Examples
    --------
    >>> import numpy as np
    >>> value, d_logits = entropy_and_grad(np.array([[np.log(3.0), 0.0]]))
    >>> print(value.round(6), d_logits.round(6))
    [0.562335] [[-0.20599  0.20599]]
    """
    options = _measure(ENTROPY, reduction, temperature, logit_softcap, engine)
    inputs = Inputs(logits, None, weights, None, denominator)
    found: tuple[A, A] = problem.loss_and_gradient(inputs, options, grad_output, out)
    return found


def kl_divergence(
    logits: A,
    teacher_logits: Array | tuple[Array, Array],
    *,
    direction: Direction = "forward",
    mixture: float = 0.5,
    tail: Tail = "renormalise",
    weights: Array | None = None,
    denominator: Denominator = None,
    reduction: Reduction = "mean",
    temperature: float = 1.0,
    logit_softcap: float | None = None,
    engine: str = "auto",
) -> A:
    """How far the distributions of a student's logits are from those of a teacher's: p and q, in nats.

    =================  =====================================================
    "forward"          KL(q‖p) = Σ_j q_j·log(q_j/p_j)
    "reverse"          KL(p‖q) = Σ_j p_j·log(p_j/q_j)
    "jensen-shannon"   β·KL(q‖m) + (1 − β)·KL(p‖m)      m = β·q + (1 − β)·p
    =================  =====================================================

    It is a sum of terms of which none is negative, as log(q/p) + p/q − 1 ≥ 0: of near distributions it keeps its
    digits, and of equal logits it is 0.

    Parameters
    ----------
    logits, teacher_logits
        Floating arrays of shape (..., V), of one library; their dtypes may differ. Of a teacher whose K likeliest
        classes are known, a pair: distinct classes, integers (..., K), and their log-probabilities at the call's
        temperature, floating (..., K).
    direction
        One of the three above.
    mixture
        β of "jensen-shannon", the teacher's share, from 1e-6 to 1 − 1e-6.
    tail
        Of a pair, what becomes of the other classes: "renormalise" gives them nothing and the K all of the teacher's
        mass; "bin" makes one class of them; "drop" leaves them out of the sum, which then may be negative. Any
        direction but "forward" needs "bin". Looked at only of a pair.
    weights, denominator, reduction
        As for `cross_entropy`.
    temperature, logit_softcap
        Of both sides. The divergence is not multiplied by T²; that is left to the caller.
    engine
        As for `cross_entropy`.

    Returns
    -------
    Array
        Of the shape that the reduction leaves of (...), and the dtype of the loss; ∞ where one side gives nothing to
        what the other, whose mean it is, does not leave out. It is differentiable by torch and JAX.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, naming what was given and what is accepted.

    References
    ----------
    G. Hinton et al., "Distilling the Knowledge in a Neural Network", 2015; R. Agarwal et al., "On-Policy Distillation
    of Language Models", 2024 (the mixture).

    Examples
    --------
    >>> import numpy as np
    >>> student, teacher = np.array([[0.0, 0.0]]), np.array([[np.log(3.0), 0.0]])
    >>> for direction in ("forward", "reverse", "jensen-shannon"):
    ...     print(f"{direction:15}{kl_divergence(student, teacher, direction=direction):.6f}")
    forward        0.130812
    reverse        0.143841
    jensen-shannon 0.033822
    """
    options = _divergence(direction, mixture, reduction, temperature, logit_softcap, engine)
    if topk.is_pair(teacher_logits):
        ids, log_probs = _pair(teacher_logits, tail, direction)
        return topk.divergence(Inputs(logits, ids, weights, None, denominator), log_probs, tail, options)  # type: ignore[no-any-return]
    found: A = problem.loss(Inputs(logits, teacher_logits, weights, None, denominator), options)
    return found


def kl_divergence_and_grad(
    logits: A,
    teacher_logits: Array | tuple[Array, Array],
    out: Array | None = None,
    grad_output: Array | float | None = None,
    *,
    direction: Direction = "forward",
    mixture: float = 0.5,
    tail: Tail = "renormalise",
    weights: Array | None = None,
    denominator: Denominator = None,
    reduction: Reduction = "mean",
    temperature: float = 1.0,
    logit_softcap: float | None = None,
    engine: str = "auto",
) -> tuple[A, A]:
    """The divergence and its gradient with respect to the student's logits, outside any framework's graph.

    The parameters are those of `kl_divergence`, and `out` and `grad_output` as for `cross_entropy_and_grad`.

    Returns
    -------
    divergence : Array
        As `kl_divergence` returns it.
    d_logits : Array
        Of the shape and dtype of `logits`; of a forward divergence p_j − q_j over the tokens. That of a reverse one is
        NaN where the divergence is ∞.

    Examples
    --------
    >>> import numpy as np
    >>> value, d_logits = kl_divergence_and_grad(np.array([[0.0, 0.0]]), np.array([[np.log(3.0), 0.0]]))
    >>> print(f"{value:.6f}", d_logits)
    0.130812 [[-0.25  0.25]]
    """
    options = _divergence(direction, mixture, reduction, temperature, logit_softcap, engine)
    if topk.is_pair(teacher_logits):
        ids, log_probs = _pair(teacher_logits, tail, direction)
        inputs = Inputs(logits, ids, weights, None, denominator)
        return topk.divergence_and_gradient(inputs, log_probs, tail, options, grad_output, out)
    inputs = Inputs(logits, teacher_logits, weights, None, denominator)
    found: tuple[A, A] = problem.loss_and_gradient(inputs, options, grad_output, out)
    return found


def _options(
    ignore_index: int | None, temperature: float, logit_softcap: float | None, check_targets: bool, engine: str
) -> Options:
    return Options(
        ignore_index=ignore_index,
        reduction="none",
        temperature=temperature,
        logit_softcap=logit_softcap,
        check_targets=check_targets,
        engine=engine,
    )


def _measure(
    measure: str,
    reduction: Reduction,
    temperature: float,
    logit_softcap: float | None,
    engine: str,
    mixture: float = 0.5,
) -> Options:
    return Options(
        reduction=reduction,
        temperature=temperature,
        logit_softcap=logit_softcap,
        engine=engine,
        measure=measure,
        mixture=mixture,
    )


def _divergence(
    direction: str,
    mixture: float,
    reduction: Reduction,
    temperature: float,
    logit_softcap: float | None,
    engine: str,
) -> Options:
    choice("direction", direction, DIRECTIONS)
    return _measure(direction, reduction, temperature, logit_softcap, engine, mixture)


def _pair(teacher: Any, tail: str, direction: str) -> tuple[Any, Any]:
    """Classes and their log-probabilities; ValueError for a pair that is none, or a tail that does not fit."""
    choice("tail", tail, topk.TAILS)
    if len(teacher) != 2:
        raise ValueError(
            f"teacher_logits is a tuple of length {len(teacher)}; accepted: an array of logits, or "
            "a pair of classes and their log-probabilities"
        )
    if direction != FORWARD and tail != topk.BIN:
        raise ValueError(f"tail is {shown(tail)} with direction {direction!r}; accepted: 'bin'")
    return teacher[0], teacher[1]
