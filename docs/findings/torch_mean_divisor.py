"""PyTorch: with class weights, what the mean divides by. Exit code 0: as found; 1: page or function is mended."""

import sys


def main() -> int:
    """Print what is documented and what comes back."""
    import torch
    from torch.nn import functional

    logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.5]])
    targets, weight = torch.tensor([0, 1]), torch.tensor([1.0, 2.0, 5.0])
    losses = functional.cross_entropy(logits, targets, weight=weight, reduction="none")
    mean = functional.cross_entropy(logits, targets, weight=weight)
    print(f"documented: 'mean' is the sum over the number of elements: {losses.sum() / losses.numel():.6f}")
    by_weight = losses.sum() / weight[targets].sum()
    print(f"given:      {mean:.6f}; the sum over the weights of the targets: {by_weight:.6f}")

    smoothed = functional.cross_entropy(logits, targets, weight=weight, label_smoothing=0.1)
    mixture = 0.9 * functional.one_hot(targets, 3) + 0.1 / 3
    mixed = functional.cross_entropy(logits, mixture, weight=weight)
    print(f"documented: label smoothing makes the targets a mixture, whose loss is {mixed:.6f}")
    print(f"given:      {smoothed:.6f}")

    page = " ".join(functional.cross_entropy.__doc__.split())
    still_said = "divided by the number of elements" in page and "become a mixture" in page
    differ = not torch.isclose(mean, losses.mean()) and not torch.isclose(smoothed, mixed)
    return 0 if still_said and differ else 1


if __name__ == "__main__":
    sys.exit(main())
