"""One object for users; wires the rooms, holds no mathematics.

config.py      the settings of a run
modules.py     any torch module, in memory
core.py        Attributor: opens a run, knows its parts
steps.py       long steps that workers share; reading the corpus
fitting.py     covariances and eigenvalues, in parts
indexing.py    codes of every document
curvatures.py  fitted curvature on disk
search.py      scores of all documents, from an index or the model
details.py     exact influence by site, window and token
texts.py       documents as words, for BM25
trace.py       the main job
"""

from whence.attributor.config import FitConfig, ModelConfig, RunConfig
from whence.attributor.core import Attributor, model_coverage
from whence.attributor.fitting import fit_steps
from whence.attributor.indexing import index_steps
from whence.attributor.modules import attribute
from whence.attributor.steps import Step, run_steps
from whence.attributor.trace import TraceOptions, trace_name

__all__ = [
    "Attributor",
    "FitConfig",
    "ModelConfig",
    "RunConfig",
    "Step",
    "TraceOptions",
    "attribute",
    "fit_steps",
    "index_steps",
    "model_coverage",
    "run_steps",
    "trace_name",
]
