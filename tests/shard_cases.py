"""A vocabulary in four shards, uneven, one empty: what is computed of it, and threads that have the shards."""

from __future__ import annotations

import threading

import numpy as np

from crossent.libraries.exchange import Exchange

SIZES = (7, 0, 11, 5)
STARTS = (0, 7, 7, 18)
V = 23
TOKENS = (3, 4)
TOKEN_WEIGHTS, CLASS_WEIGHTS = np.linspace(0, 2, TOKENS[1]), np.linspace(0, 2, V)

HARD = {
    "plain": {},
    "ignored": {"ignore_index": 3},
    "smoothed": {"label_smoothing": 0.125},
    "uniform-z": {"label_smoothing": 0.25, "smoothing": "uniform", "z_loss": 0.1},
    "classes": {"class_weights": CLASS_WEIGHTS},
    "classes-smoothed": {"class_weights": CLASS_WEIGHTS, "label_smoothing": 0.1, "ignore_index": 3},
    "none": {"weights": TOKEN_WEIGHTS, "reduction": "none", "temperature": 2.0},
    "sequence": {"logit_softcap": 3.0, "reduction": "sequence", "class_weights": CLASS_WEIGHTS},
    "sum": {"weights": TOKEN_WEIGHTS, "class_weights": CLASS_WEIGHTS, "z_loss": 0.3, "reduction": "sum"},
    "tokens": {"denominator": "tokens", "class_weights": CLASS_WEIGHTS},
    "number": {"denominator": 2.5},
}
SOFT = {
    "soft": {},
    "soft-smoothed": {"label_smoothing": 0.125},
    "soft-uniform": {"label_smoothing": 0.125, "smoothing": "uniform"},
    "soft-classes": {"class_weights": CLASS_WEIGHTS, "label_smoothing": 0.3},
    "soft-none": {"weights": TOKEN_WEIGHTS, "reduction": "none", "z_loss": 0.1, "logit_softcap": 3.0},
    "soft-all": {"label_smoothing": 1.0, "logit_softcap": 3.0},
}
OPTIONS = HARD | SOFT


def inputs(name, dtype="float64"):
    """Logits, targets and options of that case: with −inf, and ties of several shards."""
    rng = np.random.default_rng(0)
    x, t = 3 * rng.standard_normal((*TOKENS, V)), rng.integers(0, V, TOKENS)
    q = rng.random((*TOKENS, V))
    x[0, 0, 5], t[0, 0], t[1, 1] = -np.inf, 4, 3
    x[2, 0] = -np.inf
    x[2, 0, [3, 9, 20]], t[2, 0] = 2.0, 9
    q[0, 0, 5] = 0
    q[2, 0] = 0
    q[2, 0, [3, 9]] = 0.25, 0.75
    q[0, 1] = 0
    q[0, 1, 3] = 1
    # Two likeliest targets in two shards.
    q[1, 2] = 0
    q[1, 2, [1, 15]] = 0.5
    options = {key: a.astype(dtype) if isinstance(a, np.ndarray) else a for key, a in OPTIONS[name].items()}
    return x.astype(dtype), q.astype(dtype) if name in SOFT else t, options


def part(a, rank, padding=0):
    """The columns of a shard, and some that are none of its classes."""
    found = a[..., STARTS[rank] : STARTS[rank] + SIZES[rank]]
    return np.concatenate([found, np.full((*found.shape[:-1], padding), 7.0, a.dtype)], -1) if padding else found


def of_rank(rank, x, targets, options, padding=0):
    """What a rank is called with."""
    targets = part(targets, rank, padding) if targets.ndim == x.ndim else targets
    options = {key: part(a, rank, padding) if key == "class_weights" else a for key, a in options.items()}
    return part(x, rank, padding), targets, options


class Threads(Exchange):
    """One of several threads."""

    libraries = ("numpy",)

    def __init__(self, hub, rank):
        self.hub, self.rank, self.ranks = hub, rank, hub.count

    def all(self, value):
        return self.hub.gathered(self.rank, value)

    def numbers(self, number):
        return self.all(number)

    def largest(self, x):
        return self._reduced("max", x, np.maximum)

    def total(self, x):
        return self._reduced("sum", x, np.add)

    def shared(self, x):
        return x

    def _reduced(self, kind, x, function):
        if self.rank == 0:
            self.hub.moved.append((kind, x.size))
        first, *rest = self.all(x)
        found = first.copy()
        for each in rest:
            found = function(found, each)
        return found


class Hub:
    """Where threads meet; `moved` are the kinds and sizes of what they have put together."""

    def __init__(self, count):
        self.count, self.moved, self._given = count, [], [None] * count
        self._barrier = threading.Barrier(count, timeout=20)

    def gathered(self, rank, value):
        self._given[rank] = value
        self._barrier.wait()
        found = list(self._given)
        self._barrier.wait()
        return found

    def run(self, function):
        """What `function` of a rank's group returns in each thread, or the error that it raises there."""
        found = [None] * self.count

        def work(rank):
            try:
                found[rank] = function(Threads(self, rank))
            except Exception as error:  # of any kind, to be looked at
                self._barrier.abort() if isinstance(error, threading.BrokenBarrierError) else None
                found[rank] = error

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(self.count)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        return found
