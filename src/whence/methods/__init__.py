"""Named methods: each a file named after its paper, all behind one interface.

base.py      what a method is; what it may use
registry.py  the table of methods
parse.py     ``name:setting=value`` → a method
run.py       its steps, then scores as a stream or a matrix
feeding.py   scores made without a stream, as a stream
plain.py     gradient dot, gradient cosine
ekfac.py     K-FAC, EK-FAC
magic.py     MAGIC: the training run again and differentiated
tracin.py    TracIn: gradient dots over checkpoints
less.py      LESS: cosines of Adam's steps over checkpoints
source.py    SOURCE: influence through segments of the training; source_fit.py is what it fits
lowrank.py   EK-FAC with a global low-rank correction
astra.py     ASTRA: steps on the exact Gauss-Newton matrix from EK-FAC
explicit.py  the exact curvature as a matrix
cg.py        conjugate gradients on the exact curvature
lissa.py     LiSSA: its Neumann series over minibatches
arnoldi.py   its dominant eigenpairs
datainf.py   DataInf: the mean of inverses of single gradients
exact.py     exact curvature over a sample, as an operator
krylov.py    conjugate gradients for many vectors
visits.py    scores at one checkpoint after another
relatif.py   RelatIF: influence over a length of the document's own
sketching.py sketches of all documents: codes on disk, scores; gram.py is their second moments
logra.py     LoGra: two-sided projections
grass.py     GraSS, FactGraSS: sparse masks and sparse projections
trak.py      TRAK: the margin in one projection, over checkpoints
trackstar.py TrackStar: whitened cosines of corrected, projected gradients
bm25.py      BM25: shared words
tfidf.py     TF-IDF: cosine of word counts
representations.py cosine of mean hidden states
combined.py  a weighted sum of standard scores of several methods
trajectory.py several states of a training, in standard scores; later.py opens their runs
proxy.py     another, smaller model in the model's place
iprox.py     IProX: one that is made of the model
fisher.py    one dense curvature over all sites, in a whitened sketch
"""

from whence.methods.base import Method, Scorer, Solver, Work
from whence.methods.parse import parse_method
from whence.methods.registry import METHODS
from whence.methods.run import Bound, method_scores

__all__ = ["METHODS", "Bound", "Method", "Scorer", "Solver", "Work", "method_scores", "parse_method"]
