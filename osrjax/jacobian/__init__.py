"""Norms of input Jacobians of any callable: exact, along lines, estimated.

Here stand functions of ONE example and a plain callable; the caller vmaps. No network, no data set, no memory budget:
those are :mod:`osrjax.analysis.norms`.
"""

from osrjax.jacobian.estimate import (
    JacobianEstimate,
    jacobian_estimate,
    mean_estimate,
    projected_squares,
)
from osrjax.jacobian.exact import (
    automatic_mode,
    directional_norm,
    input_jacobian,
    input_jacobian_norm,
    input_jacobian_norms,
    jacfwd_norm,
    largest_singular_value,
)
from osrjax.jacobian.parts import (
    JacobianParts,
    input_jacobian_parts,
)
from osrjax.jacobian.paths import (
    chord_length,
    interpolation_profile,
    path_length,
)

__all__ = [
    "JacobianEstimate",
    "JacobianParts",
    "automatic_mode",
    "chord_length",
    "directional_norm",
    "input_jacobian",
    "input_jacobian_norm",
    "input_jacobian_norms",
    "input_jacobian_parts",
    "interpolation_profile",
    "jacfwd_norm",
    "jacobian_estimate",
    "largest_singular_value",
    "mean_estimate",
    "path_length",
    "projected_squares",
]
