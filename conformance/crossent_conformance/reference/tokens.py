"""What rows tell besides their loss, by the clean implementation: from probabilities and surprises in float64.

Log-probabilities are the negatives of losses, whose logits are repeated for each of several classes. Of a divergence
every term a·log(a/b) has b − a beside it, which adds up to 0 and leaves no term below 0. Every step is a method, so
that a fault can be put in by overriding one (see `conformance/mutants`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from crossent_conformance.reference import checks
from crossent_conformance.reference.implementation import Tokens
from crossent_conformance.reference.linear import LinearReference
from crossent_conformance.reference.rows import Call


@dataclass(frozen=True)
class Side:
    """Rows of logits as distributions."""

    p: np.ndarray
    surprise: np.ndarray
    """−log p."""
    lse: np.ndarray
    spoilt: np.ndarray


class TokensReference(LinearReference):
    """The clean implementation, and what rows tell besides their loss."""

    def token_log_probs(self, logits: Any, token_ids: Any, **options: Any) -> Any:
        return self.token_log_probs_and_grad(logits, token_ids, **options)[0]

    def token_log_probs_and_grad(
        self, logits: Any, token_ids: Any, out: Any = None, grad_output: Any = None, **options: Any
    ) -> tuple[Any, Any]:
        checks.token_ids(logits, token_ids)
        checks.gradient(grad_output, token_ids.shape)
        checks.output(out, logits)
        x, weights = logits, options.pop("weights", None)
        if token_ids.ndim == logits.ndim:
            x = np.broadcast_to(logits[..., None, :], (*token_ids.shape, logits.shape[-1])).astype(np.float64)
            weights = None if weights is None else weights[..., None]
        g = -np.ones(token_ids.shape) if grad_output is None else -grad_output
        loss, d = self.loss_and_grad(x, token_ids, None, g, weights=weights, reduction="none", **options)
        if token_ids.ndim == logits.ndim:
            d = self.over_ids(d, token_ids)
        return self.negative(loss).astype(self.compute_dtype(logits)), self.given_to(out, d, logits)

    def negative(self, loss: np.ndarray) -> np.ndarray:
        return 0.0 - loss

    def over_ids(self, d: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """The gradient of a token's classes together."""
        return d.sum(axis=-2)

    def given_to(self, out: Any, d: np.ndarray, logits: np.ndarray) -> np.ndarray:
        out = np.empty(logits.shape, logits.dtype.name) if out is None else out
        with np.errstate(all="ignore"):
            out[...] = d
        return out

    def token_statistics(self, logits: Any, targets: Any, **options: Any) -> Any:
        checks.token_ids(logits, targets, "targets")
        loss = self.loss(logits, targets, reduction="none", **options)
        call = Call(logits, targets, **options)
        with np.errstate(all="ignore"):
            tokens, side = self.tokens(call), self.side(call, logits)
            x = self.wide(logits).reshape(side.p.shape)
            own = np.take_along_axis(x, tokens.classes.reshape(-1, 1), axis=-1)
            above = self.rank(x, own)

        def shown(values: np.ndarray, otherwise: float = 0.0) -> np.ndarray:
            values = np.where(np.isnan(loss), np.nan, values.reshape(loss.shape))
            return np.where(tokens.counted | tokens.bad, values, otherwise).astype(loss.dtype)

        rank = shown(above, self.rank_of_ignored)
        return SimpleNamespace(
            loss=loss,
            log_prob=self.negative(loss),
            log_sum_exp=shown(side.lse),
            entropy=shown(self.entropies(side)),
            rank=rank,
            most_likely=rank == 0,
        )

    rank_of_ignored = -1.0

    def rank(self, x: np.ndarray, own: np.ndarray) -> np.ndarray:
        return (x > own).sum(axis=-1)

    def entropy(self, logits: Any, **options: Any) -> Any:
        return self.entropy_and_grad(logits, **options)[0]

    def entropy_and_grad(
        self, logits: Any, out: Any = None, grad_output: Any = None, *, reduction: Any = "none", **options: Any
    ) -> tuple[Any, Any]:
        call = self.measured(logits, reduction=reduction, **options)
        with np.errstate(all="ignore"):
            side = self.side(call, logits)
            H = self.entropies(side)
            d = side.p * (np.where(side.p == 0, 0.0, side.surprise) - H)
            return self.ended(call, side.spoilt, H, d, out, grad_output)

    def entropies(self, side: Side) -> np.ndarray:
        return self.over_classes(self.terms(side.p, side.surprise))

    def kl_divergence(self, logits: Any, teacher_logits: Any, **options: Any) -> Any:
        return self.kl_divergence_and_grad(logits, teacher_logits, **options)[0]

    def kl_divergence_and_grad(
        self,
        logits: Any,
        teacher_logits: Any,
        out: Any = None,
        grad_output: Any = None,
        *,
        direction: Any = "forward",
        mixture: Any = 0.5,
        **options: Any,
    ) -> tuple[Any, Any]:
        checks.direction(direction, mixture)
        call = self.measured(logits, teacher_logits, **options)
        with np.errstate(all="ignore"):
            student, teacher = self.side(call, logits), self.side(self.of_teacher(call), teacher_logits)
            values, d = self.divergences(student, teacher, direction, mixture)
            return self.ended(call, student.spoilt | teacher.spoilt, values, d, out, grad_output)

    def of_teacher(self, call: Call) -> Call:
        return call

    def divergences(
        self, student: Side, teacher: Side, direction: str, mixture: float
    ) -> tuple[np.ndarray, np.ndarray]:
        p, q = student.p, teacher.p
        r = student.surprise - teacher.surprise
        r = np.where(np.isnan(r), 0.0, r)
        apart = np.where(r > 0, -q, p) * np.expm1(-np.abs(r))
        if direction == "forward":
            return self.over_classes(self.excess(q, r) - apart), -apart
        if direction == "reverse":
            values = self.over_classes(apart + self.excess(p, -r))
            return values, np.where(p == 0, 0.0, p * (-r - values))
        of_p, of_q = -np.log1p(mixture * apart / p), -np.log1p((mixture - 1) * apart / q)
        from_p = self.over_classes(mixture * apart + self.terms(p, of_p))
        from_q = self.over_classes((mixture - 1) * apart + self.terms(q, of_q))
        d = (1 - mixture) * np.where(p == 0, 0.0, p * (of_p - from_p))
        return np.maximum(mixture * from_q + (1 - mixture) * from_p, 0.0), d

    def excess(self, a: np.ndarray, log_ratio: np.ndarray) -> np.ndarray:
        """a·log(a/b), infinite where b leaves out a class that a does not, however unlikely."""
        return np.where(np.isposinf(log_ratio), np.inf, self.terms(a, log_ratio))

    # ---- the way to rows and back

    def measured(self, logits: Any, *teachers: Any, **options: Any) -> Call:
        """The call of a loss of the same tokens, whose targets are of no account."""
        call = Call(logits, np.zeros(np.shape(logits)[:-1], dtype=np.int64), **options)
        checks.call(call)
        for teacher_logits in teachers:
            checks.teacher(teacher_logits, logits)
        return self.near_one(call)

    def side(self, call: Call, logits: np.ndarray) -> Side:
        x = logits.reshape(math.prod(call.tokens), call.V)
        nothing = np.zeros((len(x), 1), dtype=np.intp)
        if not x.size:
            none = np.zeros((len(x), 1))
            return Side(np.zeros(x.shape), np.zeros(x.shape), none, none > 0)
        rows, w = self.rows(call, x, nothing), self.seen(call, x)
        return Side(
            self.probabilities(w, rows), 2 * self.half_surprises(call, w, rows), self.lse(rows), self.spoilt(rows)
        )

    def ended(
        self, call: Call, spoilt: np.ndarray, values: np.ndarray, d: np.ndarray, out: Any, grad_output: Any
    ) -> tuple[Any, Any]:
        """The measures of rows and their gradient, weighed and reduced."""
        checks.gradient(grad_output, self.shape(call))
        checks.output(out, call.logits)
        tokens = self.tokens(call)
        divisor = self.divisor(call, tokens)
        column = Tokens(*(np.reshape(part, (-1, 1)) for part in vars(tokens).values()))
        factor = column.weights * np.reshape(self.scale(call, grad_output, divisor), (-1, 1))
        values = self.masked(column.weights * values, spoilt, column).reshape(call.tokens)
        d = self.masked(
            factor * d * np.reshape(np.broadcast_to(self.steepness(call, call.logits), call.logits.shape), d.shape),
            spoilt,
            column,
        )
        return self.reduce(call, values, divisor), self.given_to(out, d.reshape(call.logits.shape), call.logits)


subject = TokensReference()
