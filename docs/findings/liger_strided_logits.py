"""Liger: of logits that are not contiguous, the gradient is the logits. Exit code 0: so it is; 1: it is mended."""

import os
import sys


def main() -> int:
    """Print what is documented and what comes back."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    from liger_kernel.transformers.functional import liger_cross_entropy

    values = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.5]], device=device)
    targets = torch.tensor([0, 1], device=device)
    logits = values.T.contiguous().requires_grad_()
    loss = liger_cross_entropy(logits.T, targets)
    loss.backward()
    given = logits.grad.T
    exact = (values.softmax(dim=1) - torch.nn.functional.one_hot(targets, 3)) / 2
    print("documented: backward gives the gradient with respect to the logits")
    print(f"exactly:    {[round(entry, 4) for entry in exact[0].tolist()]}")
    print(f"given:      {given[0].tolist()}: the logits themselves; the loss is right: {loss.item():.6f}")
    return 0 if torch.equal(given, values) else 1


if __name__ == "__main__":
    sys.exit(main())
