"""PyTorch: a row that `ignore_index` leaves out still reaches the gradient. Exit code 0: so it is; 1: it is mended."""

import sys


def main() -> int:
    """Print what is documented and what comes back."""
    import torch
    from torch.nn import functional

    logits = torch.tensor([[1.0, 2.0, 3.0], [float("nan"), 0.0, 0.0]], requires_grad=True)
    loss = functional.cross_entropy(logits, torch.tensor([0, -100]), ignore_index=-100)
    loss.backward()
    ignored = logits.grad[1]
    print("documented: the ignored second row has no part in the gradient: [0, 0, 0]")
    print(f"given:      {ignored.tolist()}, though the loss is right: {loss.item():.6f}")
    still_said = "does not contribute to the input gradient" in " ".join(functional.cross_entropy.__doc__.split())
    return 0 if still_said and bool(ignored.isnan().any()) else 1


if __name__ == "__main__":
    sys.exit(main())
