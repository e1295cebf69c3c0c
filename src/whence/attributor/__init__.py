"""One object for users; wires the rooms, holds no mathematics.

config.py      the settings of a run
modules.py     any torch module, in memory
lying.py       paths as typed elsewhere
core.py        Attributor: opens a run, knows its parts
steps.py       long steps that workers share; reading the corpus
fitting.py     covariances and eigenvalues, in parts
indexing.py    codes of every document
curvatures.py  fitted curvature on disk
search.py      scores of all documents, from an index or the model
leakage.py     what an index cannot see of a query
details.py     exact influence by site, window and token
texts.py       documents as words, for BM25 and TF-IDF
states.py      mean hidden states of documents and queries
trace.py       the main job
summaries.py   what a result says of its settings
teaching.py    which documents taught a statement
proxies.py     a smaller model that stands for a run's, made of it
proxy_making.py  which layers and documents
proxy_runs.py  a run of another model over the same tokens
siblings.py    a run beside another one, with other sites or another fit
matrices.py    whole matrices of scores; self-influence
checkpoints.py earlier states of the training
moments.py     what an optimizer kept there, by site
"""

from whence.attributor.checkpoints import (
    Checkpoint,
    at_checkpoint,
    checkpoint_folder,
    per_document,
    rates_between,
    read_checkpoints,
)
from whence.attributor.config import FitConfig, ModelConfig, RunConfig
from whence.attributor.core import Attributor, model_coverage
from whence.attributor.fitting import fit_steps
from whence.attributor.indexing import index_steps
from whence.attributor.matrices import (
    SelfScores,
    exact_influence,
    gradient_cosines,
    index_influence,
    influence_and_dots,
    self_scores,
)
from whence.attributor.modules import attribute
from whence.attributor.moments import Moments, optimizer_moments
from whence.attributor.search import Question, ask
from whence.attributor.siblings import sibling
from whence.attributor.states import state_similarities
from whence.attributor.steps import Step, batches, run_steps
from whence.attributor.trace import TraceOptions, trace_name

__all__ = [
    "Attributor",
    "Checkpoint",
    "FitConfig",
    "ModelConfig",
    "Moments",
    "Question",
    "RunConfig",
    "SelfScores",
    "Step",
    "TraceOptions",
    "ask",
    "at_checkpoint",
    "attribute",
    "batches",
    "checkpoint_folder",
    "exact_influence",
    "fit_steps",
    "gradient_cosines",
    "index_influence",
    "index_steps",
    "influence_and_dots",
    "model_coverage",
    "optimizer_moments",
    "per_document",
    "rates_between",
    "read_checkpoints",
    "run_steps",
    "self_scores",
    "sibling",
    "state_similarities",
    "trace_name",
]
