"""PyTorch: its tensors, eager, on the autograd graph and inside transformations; and its own signatures.

library.py    what tensors are: seen by NumPy, in a device's memory, on a graph, traced
graph.py      the losses as functions with derivatives of their own
operator.py   the losses as operators that torch.compile keeps whole
formula.py    the losses as a function that torch differentiates
distributed.py  DTensors
drop_in.py    `torch.nn.functional.cross_entropy` and `torch.nn.CrossEntropyLoss`
"""
