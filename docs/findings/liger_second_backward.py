"""Liger: a second backward scales the gradient once more. Exit code 0: so it is; 1: it is mended."""

import os
import sys


def main() -> int:
    """Print what is documented and what comes back."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    from liger_kernel.transformers.functional import liger_cross_entropy

    leaf = torch.tensor([[1.0, 2.0, 3.0]], device=device, requires_grad=True)
    loss = 3.0 * liger_cross_entropy(leaf * 1.0, torch.tensor([0], device=device))
    first, second = (torch.autograd.grad(loss, leaf, retain_graph=True)[0].tolist()[0] for _ in range(2))
    print("documented: backward gives the gradient, here three times softmax − one-hot; asked twice")
    print(f"first:      {[round(entry, 4) for entry in first]}")
    print(f"second:     {[round(entry, 4) for entry in second]}")
    return 0 if all(abs(b - 3 * a) < 1e-4 for a, b in zip(first, second, strict=True)) else 1


if __name__ == "__main__":
    sys.exit(main())
