"""Other people's cross-entropies as subjects, for the accuracy table and to see the suite's tests fail.

    pytest conformance --subject xent_conformance.subjects_peers:torch_functional

Options that a peer lacks raise NotImplementedError; `smoothing` means its own convention, epsilon / V on every class.
"""

from __future__ import annotations

from typing import Any


class _Peer:
    """What the peers have in common: they give a loss, and their framework its gradient."""

    name: str
    backends: tuple[str, ...]

    def loss_object(self, **options: Any) -> Any:
        raise NotImplementedError("a loss object")

    def perplexity(self, loss: Any) -> Any:
        raise NotImplementedError("perplexity")

    def shift(self, logits: Any, token_ids: Any) -> Any:
        raise NotImplementedError("the shift by one")


def _refuse(options: dict[str, Any]) -> None:
    for name in options:
        raise NotImplementedError(name)


class TorchFunctional(_Peer):
    """`torch.nn.functional.cross_entropy`."""

    name = "torch.nn.functional.cross_entropy"
    backends = ("torch", "torch-cuda")

    def loss(
        self,
        logits,
        targets,
        *,
        reduction="mean",
        ignore_index=None,
        class_weights=None,
        label_smoothing=0.0,
        smoothing="uniform",
        **options,
    ):
        import torch

        _refuse(options)
        if reduction == "sequence":
            raise NotImplementedError("reduction='sequence'")
        if label_smoothing and smoothing != "uniform":
            raise NotImplementedError("smoothing='others'")
        soft = targets.is_floating_point()
        loss = torch.nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]),
            targets.reshape(-1, logits.shape[-1]) if soft else targets.reshape(-1).long(),
            weight=class_weights,
            ignore_index=-100 if ignore_index is None else ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
        )
        return loss.reshape(logits.shape[:-1]) if reduction == "none" else loss

    def loss_and_grad(self, logits, targets, *, grad_output=None, out=None, **options):
        import torch

        if out is not None:
            raise NotImplementedError("out")
        leaf = logits.detach().requires_grad_()
        loss = self.loss(leaf, targets, **options)
        scale = torch.ones_like(loss) if grad_output is None else torch.as_tensor(grad_output, dtype=loss.dtype)
        loss.backward(scale)
        return loss.detach(), leaf.grad


class Optax(_Peer):
    """`optax.softmax_cross_entropy_with_integer_labels`."""

    name = "optax.softmax_cross_entropy_with_integer_labels"
    backends = ("jax",)

    def loss(self, logits, targets, *, reduction="mean", **options):
        import optax

        _refuse(options)
        if targets.dtype.kind == "f":
            raise NotImplementedError("soft targets")
        if reduction == "sequence":
            raise NotImplementedError("reduction='sequence'")
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return {"none": loss, "mean": loss.mean(), "sum": loss.sum()}[reduction]

    def loss_and_grad(self, logits, targets, *, grad_output=None, **options):
        import jax

        loss, pull = jax.vjp(lambda logits: self.loss(logits, targets, **options), logits)
        scale = jax.numpy.ones_like(loss) if grad_output is None else jax.numpy.asarray(grad_output, loss.dtype)
        return loss, pull(scale)[0]


torch_functional = TorchFunctional()
optax = Optax()
