"""Keras: the loss object rounds class numbers to its dtype. Exit code 0: so it is; 1: it is mended."""

import os
import sys


def main() -> int:
    """Print what is documented and what comes back."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras
    import numpy as np

    logits = np.zeros((1, 3000), dtype=np.float32)
    logits[0, 2049] = 8.0
    label = np.array([2049])
    exact = float(keras.losses.sparse_categorical_crossentropy(label, logits, from_logits=True)[0])
    print("documented: labels are integers; dtype, or a policy's, is that of the computations")
    print(f"exactly:    {exact:.4f} for the class that is ahead by 8")
    given = {}
    for dtype in ("float32", keras.DTypePolicy("mixed_float16"), "bfloat16"):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype=dtype)
        name = dtype if isinstance(dtype, str) else dtype.name
        given[name] = float(loss(label, logits))
        print(f"given:      {given[name]:.4f} with {name}")
    # Past 2048 float16 has no odd numbers: 2049 becomes 2048, and the loss is another class's, about 8 more.
    return 0 if abs(given["float32"] - exact) < 0.1 and given["mixed_float16"] > exact + 7 else 1


if __name__ == "__main__":
    sys.exit(main())
