"""PyTorch: `linear_cross_entropy` in chunks is not what it is in one. Exit code 0: so it is; 1: it is mended."""

import math
import sys


def main() -> int:
    """Print what is documented and what comes back."""
    import torch
    from torch.nn import LinearCrossEntropyOptions, functional

    def ask(hidden, targets, options):  # noqa: ANN001, ANN202 - a reproduction stays short
        hidden = hidden.clone().requires_grad_()
        loss = functional.linear_cross_entropy(hidden, weight, targets, options=options)
        loss.backward()
        return loss.item(), hidden.grad

    weight = torch.eye(4)
    hidden, nothing_counts = torch.zeros(2, 4), torch.tensor([-100, -100])
    _, whole = ask(hidden, nothing_counts, None)
    _, chunked = ask(hidden, nothing_counts, LinearCrossEntropyOptions())
    print("documented: the same as a linear layer and cross_entropy, with options or without")
    print(f"nothing counts, gradient:          {whole[0].tolist()} without, {chunked[0].tolist()} with options")

    bad_but_ignored = torch.tensor([[1.0, 2.0, 3.0, 4.0], [float("nan"), 0.0, 0.0, 0.0]])
    one_counts = torch.tensor([0, -100])
    whole_loss, _ = ask(bad_but_ignored, one_counts, None)
    chunked_loss, _ = ask(bad_but_ignored, one_counts, LinearCrossEntropyOptions())
    print(f"NaN in an ignored row, loss:       {whole_loss:.6f} without, {chunked_loss:.6f} with options")

    still_said = "is equivalent to" in " ".join(functional.linear_cross_entropy.__doc__.split())
    gradients_differ = bool((whole == 0).all() and chunked.isnan().all())
    losses_differ = math.isfinite(whole_loss) and math.isnan(chunked_loss)
    return 0 if still_said and gradients_differ and losses_differ else 1


if __name__ == "__main__":
    sys.exit(main())
