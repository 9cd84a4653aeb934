"""Faults of memory that outlives a call, or that is not the call's own."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np

from crossent_conformance.reference import LossObject, Reference


class LogitsShiftedInPlace(Reference):
    """A2: The maximum is subtracted from the caller's logits."""

    def walk(self, call, tokens, d_logits=None, scale=None):
        logits = call.logits
        if logits.size and logits.flags.writeable:
            logits -= logits.max(axis=-1, keepdims=True)
        return super().walk(call, tokens, d_logits, scale)


class IgnoredTargetsOverwritten(Reference):
    """A2: Ignored targets are set to 0 where they lie, so that they can be indexed with."""

    def tokens(self, call):
        tokens = super().tokens(call)
        if call.hard and call.ignore_index is not None and call.targets.flags.writeable:
            call.targets[self.ignored(call)] = 0
        return tokens


class OutNotWritten(Reference):
    """A2: `out` is taken, and a new array comes back."""

    def loss_and_grad(self, logits, targets, out=None, grad_output=None, **options):
        return super().loss_and_grad(logits, targets, None, grad_output, **options)


class OutOverlapsUnseen(Reference):
    """A2: The gradient is written over logits and targets that are still to be read."""

    piece = 4

    def apart(self, call, d_logits):
        return call


class OutWrittenBeforeTheCheck(Reference):
    """A4: `out` is filled with zeros before the targets are looked at."""

    def loss_and_grad(self, logits, targets, out=None, grad_output=None, **options):
        if out is not None:
            logits, targets = logits.copy(), targets.copy()
            out[...] = 0
        return super().loss_and_grad(logits, targets, out, grad_output, **options)


class ResultsCached(Reference):
    """R5: The loss of an array that has been seen is the one of that time, whatever has been written into it since."""

    def __init__(self):
        self.seen = {}

    def loss(self, logits, targets, **options):
        key = (id(logits), id(targets), repr(sorted(options.items())))
        if key not in self.seen:  # the arrays are kept, so that no other has their id
            self.seen[key] = (super().loss(logits, targets, **options), logits, targets)
        return self.seen[key][0]


class OptionsStick(Reference):
    """R5: Class weights hold for later calls, too, until others are given."""

    kept = None

    def tokens(self, call):
        return super().tokens(self.remembering(call))

    def walk(self, call, tokens, d_logits=None, scale=None):
        return super().walk(self.remembering(call), tokens, d_logits, scale)

    def remembering(self, call):
        if call.class_weights is not None:
            self.kept = call.class_weights.copy()
        if self.kept is not None and self.kept.shape == (call.V,):
            call = replace(call, class_weights=self.kept)
        return call


class OneGradientForAll(Reference):
    """A2: Gradients of one shape and dtype share their memory: a call overwrites what an earlier one gave."""

    def __init__(self):
        self.memories = {}

    def memory(self, call):
        key = (call.logits.shape, call.logits.dtype.name, threading.get_ident())
        return self.memories.setdefault(key, super().memory(call))


class ScratchSharedByThreads(Reference):
    """A8: Exponentials are kept in memory that all threads share."""

    def __init__(self):
        self.scratch = np.empty(0)

    def exponentials(self, w, rows):
        if self.scratch.size < w.size:
            self.scratch = np.empty(w.size)
        mine = self.scratch[: w.size].reshape(w.shape)
        np.exp(w - rows.largest, out=mine)
        time.sleep(0)  # as long as another thread needs to come in
        return mine.copy()


class BackwardAccumulates(Reference):
    """A9: Every backward() adds to the gradient of the one before."""

    class Object(LossObject):
        total = 0.0

        def backward(self, grad_output=None):
            self.total = self.total + super().backward(grad_output)
            return self.total


class BackwardOfNothing(Reference):
    """A9: backward() before forward() gives zeros."""

    class Object(LossObject):
        def backward(self, grad_output=None):
            return np.zeros((1, 1)) if self.last is None else super().backward(grad_output)


class LogitsCopied(Reference):
    """A9: The loss object keeps copies of its inputs."""

    class Object(LossObject):
        def forward(self, logits, targets, weights=None):
            return super().forward(logits.copy(), targets.copy(), weights)


class LastCallPickled(Reference):
    """A14: Copies and pickles of the loss object carry the logits of its last call."""

    class Object(LossObject):
        def __getstate__(self):
            return self.__dict__


class FailureForgotten(Reference):
    """A9: After a forward() that failed, backward() is that of the one before."""

    class Object(LossObject):
        def forward(self, logits, targets, weights=None):
            last = self.last
            try:
                return super().forward(logits, targets, weights)
            except Exception:
                self.last = last
                raise


class WholeArrayWidened(Reference):
    """A10: All logits become float64 before the walk begins."""

    def walk(self, call, tokens, d_logits=None, scale=None):
        return super().walk(replace(call, logits=call.logits.astype(np.float64)), tokens, d_logits, scale)


class GradientBesideOut(Reference):
    """A10: With `out` the gradient is made apart and copied, even where it may be written at once."""

    def loss_and_grad(self, logits, targets, out=None, grad_output=None, **options):
        loss, d_logits = super().loss_and_grad(logits, targets, None, grad_output, **options)
        if out is None:
            return loss, d_logits
        out[...] = d_logits
        return loss, out
