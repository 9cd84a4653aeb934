"""Speed and memory, side by side: every backend of `crossent`, the peers, and a plain copy of the logits, in one run.

A `Problem` is the data, a `Contender` a way to work on it, a `Measurement` what came of it; a `Question`
is asked of all contenders. A result is checked before its time counts. Run with `make bench`; see docs/performance.md.
"""
