"""The curvature room: what the loss looks like around the trained parameters, site by site.

statistics.py  second moments of inputs and output gradients, as sums
ekfac.py       K-FAC and EK-FAC: eigenbasis and eigenvalues of a site
experts.py     experts that saw few tokens borrow from the others
damping.py     what is added before inverting
dimension.py   how many directions curvature, and not damping, decides
exact.py       the whole Hessian, for small models
ipsvd.py       matrices of low rank that change the loss least, and where rank is best spent
"""

from whence.curvature.damping import Damping
from whence.curvature.dimension import effective_dimension, recommended_coordinates, total_dimension
from whence.curvature.ekfac import (
    Side,
    SiteCurvature,
    add_squares,
    eigenbasis,
    fit_kfac,
    identity_curvature,
    standard_error,
    with_eigenvalues,
)
from whence.curvature.exact import exact_hessian, exact_solve
from whence.curvature.ipsvd import (
    Moments,
    Shape,
    WeightedFactors,
    moments_of,
    spend_ranks,
    uniform_ranks,
    weighted_factors,
)
from whence.curvature.statistics import Covariances, diagonal_sides, moment_names

__all__ = [
    "Covariances",
    "Damping",
    "Moments",
    "Shape",
    "Side",
    "SiteCurvature",
    "WeightedFactors",
    "add_squares",
    "diagonal_sides",
    "effective_dimension",
    "eigenbasis",
    "exact_hessian",
    "exact_solve",
    "fit_kfac",
    "identity_curvature",
    "moment_names",
    "moments_of",
    "recommended_coordinates",
    "spend_ranks",
    "standard_error",
    "total_dimension",
    "uniform_ranks",
    "weighted_factors",
    "with_eigenvalues",
]
