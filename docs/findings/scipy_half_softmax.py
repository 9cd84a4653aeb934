"""SciPy: `softmax` and `log_softmax` of many float16 logits overflow. Exit code 0: so it is; 1: it is mended."""

import sys


def main() -> int:
    """Print what is documented and what comes back."""
    import numpy as np
    from scipy.special import log_softmax, softmax

    x = np.zeros(70_000, dtype=np.float16)
    with np.errstate(all="ignore"):
        total = softmax(x).astype(np.float64).sum()
        logarithm = float(log_softmax(x)[0])
    print("documented: shifted so that nothing overflows; the results, and those of log_softmax after exp, sum to 1")
    print(f"exactly:    each 1/70000 = {1 / 70_000:.4e}, its logarithm {-np.log(70_000):.4f}: float16 can hold both")
    print(f"given:      the sum of softmax {total}, log_softmax {logarithm}")
    still_said = "will sum to 1" in " ".join(softmax.__doc__.split())
    return 0 if still_said and total == 0 and logarithm == -np.inf else 1


if __name__ == "__main__":
    sys.exit(main())
