"""PyTorch: `log_softmax` of a sure prediction is 0, and so is its gradient. Exit code 0: so it is; 1: it is mended."""

import math
import sys


def main() -> int:
    """Print what is documented and what comes back."""
    import torch
    from torch.nn import functional

    x = torch.zeros(8)
    x[0] = 20.0
    x.requires_grad_()
    value = functional.log_softmax(x, dim=0)[0]
    value.backward()
    exact = -math.log1p(7 * math.exp(-20))
    print("documented: output and gradient are computed correctly; values lie below 0")
    print(f"exactly:    value {exact:.4e}, gradient {-math.expm1(exact):.4e}: float32 can hold both")
    print(f"given:      value {value.item()!r}, gradient {x.grad[0].item()!r}; the other gradients: {x.grad[1]:.4e}")
    still_said = "output and gradient correctly" in " ".join(functional.log_softmax.__doc__.split())
    return 0 if still_said and value.item() == 0 and x.grad[0].item() == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
