"""The driver's structures of a launch, as cuda.h has them, for stand-ins of the driver."""

from __future__ import annotations

import ctypes

CLUSTER_DIMENSION = 4


class Configuration(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("count", ctypes.c_uint),
    )


class Attribute(ctypes.Structure):
    """CUlaunchAttribute: what it is, and a union of 64 bytes."""

    _fields_ = (("id", ctypes.c_uint), ("pad", ctypes.c_uint), ("value", ctypes.c_uint * 16))


def as_c_reads_it(address):
    """The configuration there, and its cluster, None where it has none."""
    c = Configuration.from_address(address)
    assert c.count in (0, 1)
    if not c.count:
        return c, None
    attribute = Attribute.from_address(c.attributes)
    assert attribute.id == CLUSTER_DIMENSION
    return c, tuple(attribute.value[:3])
