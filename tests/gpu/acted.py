"""A GPU that is acted, to try the tests of one without any: NumPy, with a queue that only a clock knows of."""

from __future__ import annotations

import contextlib
import time

import numpy as np
import pytest
from benchmarks.device import DEVICES, Device
from tests.gpu.subject import Subject

from crossent_conformance.backends import BACKENDS, NumPy


class Acted(Device):
    extra = outside = 0
    devices = 2
    busy_until = 0.0

    def delay(self, seconds):
        self.busy_until = time.perf_counter() + seconds

    def event(self):
        return self.busy_until

    def passed(self, event):
        return time.perf_counter() >= event

    def seconds(self, start, stop):
        return 1.0

    def synchronize(self):
        time.sleep(max(0.0, self.busy_until - time.perf_counter()))

    def zeros(self, count):
        return np.zeros(1)

    def release(self):
        pass

    def stream(self):
        return contextlib.nullcontext()

    def captured(self, call):
        return call

    def extra_memory(self, call):
        return self.extra

    def memory(self):
        return 2**40, 0

    def outside_memory(self, call):
        return self.outside

    def count(self):
        return self.devices

    def on(self, index):
        return contextlib.nullcontext()


class Right(Subject):
    """A check of the targets waits for them."""

    def loss(self, x, t, **options):
        if options.get("check_targets"):
            self.device.synchronize()
        return super().loss(x, t, **options)


@pytest.hookimpl(tryfirst=True)
def pytest_configure():
    """As a plugin of pytest, for the benchmarks: NumPy is taken for CuPy, and this device for its GPU."""
    DEVICES["cupy"] = Acted
    BACKENDS["cupy"] = NumPy


def subject(kind=Right, **fault):
    """A right implementation, or a faulty one, on a right device or one with a fault: another value of an attribute."""
    device = Acted()
    vars(device).update(fault)
    return kind(NumPy(), device, "array_api", small=True)
