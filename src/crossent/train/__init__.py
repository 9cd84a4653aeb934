"""`crossent train`: a next-token language model learns from real text, with the same loss on every installed backend.

One program for all of them: text, vocabulary and initial parameters are made once with NumPy, the model and its
optimiser are written against the array API, and no file here but `crossent.info`'s list knows a backend by name.
Only `command` and `picture` need the extra `train`; they are imported when a person asked for a run.
"""
