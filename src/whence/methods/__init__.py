"""Named methods: each a file named after its paper, all behind one interface.

base.py      what a method is; what it may use
registry.py  the table of methods
parse.py     ``name:setting=value`` → a method
run.py       its steps, then scores as a stream or a matrix
feeding.py   scores that are there already, as a stream
plain.py     gradient dot, gradient cosine
ekfac.py     K-FAC, EK-FAC
"""

from whence.methods.base import Method, Scorer, Solver, Work
from whence.methods.parse import parse_method
from whence.methods.registry import METHODS
from whence.methods.run import Bound, method_scores

__all__ = ["METHODS", "Bound", "Method", "Scorer", "Solver", "Work", "method_scores", "parse_method"]
