"""JAX's arrays on a mesh whose axes are explicit: their types say how they are spread, and each operation asks for that
of its result.

Within a call the axes are left to the compiler; what comes out is spread as the logits are.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding

from crossent.libraries.jax import LIBRARY, Jax, P, mesh_of
from crossent.types import Array

_reshard: Any = jax.sharding.reshard


class OnMesh(Jax):
    """Of one call, whose arrays are on an explicit mesh."""

    def __init__(self, mesh: Any, spec: Any) -> None:
        """mesh: that of the arrays. spec: how those axes of the logits that are the tokens' are spread over it."""
        super().__init__(jnp, "jax", LIBRARY)
        self.mesh, self.spec = mesh, spec
        explicit = [
            name for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind == AxisType.Explicit
        ]
        self.within = mesh.update_axis_types(dict.fromkeys(explicit, AxisType.Auto))
        # Eager code that has not entered the mesh with jax.set_mesh.
        self.is_outside = jax.sharding.get_abstract_mesh().empty and not isinstance(jnp.zeros(()), jax.core.Tracer)

    def computing(self, x: Array) -> AbstractContextManager[Any]:
        """Where the compiler chooses how what is computed is spread."""
        context: AbstractContextManager[Any] = jax.sharding.use_abstract_mesh(self.within)
        return context

    def device(self, x: Array) -> Any:
        """On the same devices, where axes are the compiler's."""
        place = super().device(x)
        if not isinstance(place, NamedSharding):
            return place
        mesh: Any = place.mesh
        return NamedSharding(Mesh(mesh.devices, mesh.axis_names, axis_types=self.within.axis_types), P())

    def enter(self, x: Any) -> Any:
        """Where it lies, as an array that the compiler may spread otherwise."""
        if not isinstance(x, jax.Array) or mesh_of(x) != self.mesh:
            return x
        return _reshard(x, P(*(None,) * x.ndim))

    def enter_matrix(self, x: Array) -> Array:
        """The same."""
        return self.enter(x)

    def leave(self, result: Array) -> Array:
        """A loss, spread as the tokens are that it has."""
        if self.is_outside and not result.ndim and isinstance(result, jax.core.Tracer):
            # Outside jax.set_mesh, jax.grad has no 1 to begin with for a loss on an explicit mesh.
            return jax.device_put(result)
        return self._spread(result)

    def leave_matrix(self, d: Array, logits: Array) -> Array:
        """Spread as that is of which it is the gradient."""
        spread = jax.typeof(logits).sharding
        return _reshard(d, NamedSharding(self.mesh, spread.spec if spread.mesh == self.mesh else P()))

    def _spread(self, x: Array) -> Array:
        return _reshard(x, NamedSharding(self.mesh, P(*self.spec[: x.ndim])))
