"""Codes and scores by running the model.

recipe.py   the settings of an index
encoder.py  from factors to codes, for documents and queries
runner.py   a model over a batch, factors out
passes.py   covariances, eigenvalues, codes, exact and token-wise scores
"""

from whence.gradients.encoder import SiteEncoder, build_encoders
from whence.gradients.passes import (
    add_covariances,
    add_eigenvalue_squares,
    encode_documents,
    exact_scores,
    gradient_blocks,
    token_scores,
)
from whence.gradients.recipe import AUTO_BYTES, Method, Recipe
from whence.gradients.runner import Examples, Precision, Runner, language_examples, products

__all__ = [
    "AUTO_BYTES",
    "Examples",
    "Method",
    "Precision",
    "Recipe",
    "Runner",
    "SiteEncoder",
    "add_covariances",
    "add_eigenvalue_squares",
    "build_encoders",
    "encode_documents",
    "exact_scores",
    "gradient_blocks",
    "language_examples",
    "products",
    "token_scores",
]
