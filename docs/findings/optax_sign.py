"""Optax: the formula of the integer loss lacks its minus. Exit code 0: so it is; 1: it is mended."""

import sys


def main() -> int:
    """Print what is documented and what comes back."""
    import jax
    import jax.numpy as jnp
    import optax

    logits, labels = jnp.array([[1.2, -0.8, -0.5]]), jnp.array([0])
    given = float(optax.softmax_cross_entropy_with_integer_labels(logits, labels)[0])
    documented = float(jnp.log(jax.nn.softmax(logits)[0, 0]))
    print(f"documented: the logarithm of the label's probability: {documented:.4f}")
    print(f"given:      {given:.4f}")
    page = optax.softmax_cross_entropy_with_integer_labels.__doc__ or ""
    formula = page.partition(".. math::")[2].partition("Args:")[0]
    return 0 if formula and "-" not in formula and documented < 0 < given else 1


if __name__ == "__main__":
    sys.exit(main())
