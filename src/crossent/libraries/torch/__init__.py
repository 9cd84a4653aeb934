"""PyTorch: its tensors, eager, on the autograd graph and inside transformations; and its own signatures.

library.py    which state the tensors of a call are in
tensors.py    tensors as arrays: in a device's memory, or seen by NumPy
recorded.py   on a graph, and traced
graph.py      the losses as functions with derivatives of their own; linear.py: those of hidden states
operator.py   the losses as operators that torch.compile keeps whole; linear_operator.py: those of hidden states
formula.py    the losses as a function that torch differentiates
distributed.py  DTensors
drop_in.py    `torch.nn.functional.cross_entropy` and `torch.nn.CrossEntropyLoss`
"""
