"""Clause A13: logits on a mesh of all the devices that there are, which may be one."""

from __future__ import annotations

import numpy as np
import pytest

from crossent_conformance import agree, cases, oracle
from crossent_conformance.backends import Mode

V = 64
pytestmark = pytest.mark.places(backends=("jax",), modes=(Mode.EAGER,), dtypes=("float32",))


class _Mesh:
    """All devices along one axis, over which rows are spread."""

    def __init__(self, place, kind):
        if not hasattr(place.backend.jax, "set_mesh"):
            pytest.skip("this version of JAX has no jax.set_mesh")
        self.jax = place.backend.jax
        self.size = len(self.jax.devices())
        axis_types = (getattr(self.jax.sharding.AxisType, kind),)
        self.mesh = self.jax.make_mesh((self.size,), ("rows",), axis_types=axis_types)
        self.rows, self.whole = self.jax.sharding.PartitionSpec("rows"), self.jax.sharding.PartitionSpec()

    def spread(self, *arrays):
        place = self.jax.sharding.NamedSharding(self.mesh, self.rows)
        return [self.jax.device_put(array, place) for array in arrays]

    def in_parts(self, function):
        """`function` of each device's part, with the checks that are made unless they are switched off."""
        specs = (self.rows, self.rows)
        return self.jax.jit(self.jax.shard_map(function, mesh=self.mesh, in_specs=specs, out_specs=self.whole))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_A13_on_a_mesh(place, subject, kind):
    mesh = _Mesh(place, kind)
    logits, targets = cases.vocabulary(V, rows=4 * mesh.size)
    agree.to_begin_with(place, subject, logits, targets)
    exact = oracle.cross_entropy(place.round(logits), targets)
    x, t = mesh.spread(*place.pair(logits, targets))
    with mesh.jax.set_mesh(mesh.mesh):
        for loss in (subject.loss(x, t), mesh.jax.jit(subject.loss)(x, t)):
            agree.loss(place, place.to_numpy(loss), exact[0])
        agree.gradient(place, place.to_numpy(mesh.jax.grad(subject.loss)(x, t)), exact[1])


@pytest.mark.parametrize("rows", [4, 16384], ids=["few", "many"])
def test_A13_inside_shard_map(place, subject, rows):
    mesh = _Mesh(place, "Auto")
    rng = cases.generator(13)
    x, t = place.pair(rng.standard_normal((rows * mesh.size, V)), rng.integers(0, V, rows * mesh.size))
    expected = np.asarray(subject.loss(x, t))
    mean = mesh.in_parts(lambda x, t: mesh.jax.lax.pmean(subject.loss(x, t), "rows"))
    agree.alike(place, mean(*mesh.spread(x, t)), expected)
