"""The engines, each of which walks the logits its own way. `base` says what an engine is, `select` which one serves."""
