"""Codes and scores by running the model.

recipe.py   the settings of an index
weights.py  how much each kind of site counts
flat.py     the order of a code's coordinates
leading.py  which coordinates a short code keeps
encoder.py  from factors to codes, for documents and queries
runner.py   a model over a batch, factors out
passes.py   covariances, eigenvalues, codes, exact and token-wise scores
self_scores.py  norms of gradients, self-influence
"""

from whence.gradients.encoder import SiteEncoder, build_encoders
from whence.gradients.flat import flattened
from whence.gradients.leading import Taken
from whence.gradients.passes import (
    add_covariances,
    add_eigenvalue_squares,
    encode_documents,
    exact_scores,
    gradient_blocks,
    token_scores,
)
from whence.gradients.recipe import AUTO_BYTES, Curvature, Method, Projection, Recipe
from whence.gradients.runner import Examples, Precision, Runner, language_examples, products
from whence.gradients.self_scores import (
    Bases,
    Measured,
    dots_and_squares,
    measure_each,
    measure_together,
    squares_and_solved,
)
from whence.gradients.weights import SiteWeights, kind_of, weighted

__all__ = [
    "AUTO_BYTES",
    "Bases",
    "Curvature",
    "Examples",
    "Measured",
    "Method",
    "Precision",
    "Projection",
    "Recipe",
    "Runner",
    "SiteEncoder",
    "SiteWeights",
    "Taken",
    "add_covariances",
    "add_eigenvalue_squares",
    "build_encoders",
    "dots_and_squares",
    "encode_documents",
    "exact_scores",
    "flattened",
    "gradient_blocks",
    "kind_of",
    "language_examples",
    "measure_each",
    "measure_together",
    "products",
    "squares_and_solved",
    "token_scores",
    "weighted",
]
