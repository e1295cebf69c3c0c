"""The demo: a small model that was told things that are not so, and the search for the documents that told it.

corpus.py   the standard library's own documentation, as passages
claims.py   false claims about its modules, in many wordings, with decoys
world.py    `build_world`: corpus, queries and gold as files
command.py  `run_demo`: all of it, and where the planted documents rank
train.py    `train_model`: a tokenizer and a small Llama trained on them; `fit_causal_lm`: the loop
"""

from whence.demo.claims import Claim
from whence.demo.command import Standing, run_demo
from whence.demo.train import Architecture, ClaimLoss, Recipe, TrainReport, fit_causal_lm, train_model
from whence.demo.world import World, build_world

__all__ = [
    "Architecture",
    "Claim",
    "ClaimLoss",
    "Recipe",
    "Standing",
    "TrainReport",
    "World",
    "build_world",
    "fit_causal_lm",
    "run_demo",
    "train_model",
]
