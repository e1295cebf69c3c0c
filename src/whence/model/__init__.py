"""The model room: which weights, which loss, and reading gradients' factors.

load.py        a Hugging Face model, its fingerprint; batches onto its device
adapters.py    PEFT adapters on it
devices.py     where a model runs: one device, several, several processes
parallel.py    one model across the processes of torchrun: the first leads
sharding.py    slices of parameters where transformers cannot make them
follower.py    what the others do
quantised.py   base models in few bits
factored.py    linear layers as products of two: proxies, as directories
alignment.py   gradients of their factors, trained to be the target's
blocks.py      the transformer blocks of a model
checkpointing.py  blocks that are run again in the backward pass
sites.py       which weights are attributed, and how a block lies in the parameters
layers.py      linear layers and embeddings
experts.py     stacks of experts, read through transformers' experts interface
routers.py     the logits by which experts are chosen
norms.py       scales and shifts
probe.py       which sites really run
coverage.py    what is attributed, what is not, and why
objectives.py  the summed losses that are differentiated
training.py    how a model is trained, as data
optimizers.py  a training's optimizers and the parameters each has
muon.py        Muon: orthogonalised momentum
states.py      states of a training, as folders
dropout.py     every dropout of a model
train.py       the one training loop
metagradient.py  the derivative of a trained model by its documents' weights
products.py    exact products with the Gauss-Newton matrix and the Hessian
invariance.py  whether gradients depend on what shares a batch
capture.py     inputs and output gradients of every site, without weight gradients
"""

from whence.model.alignment import Aligner, compared
from whence.model.capture import Capture, Consumer, frozen
from whence.model.coverage import coverage
from whence.model.devices import Placement, resolve_device
from whence.model.dropout import has_dropout, set_dropout
from whence.model.factored import (
    FactoredLinear,
    decomposable,
    factored,
    factored_copy,
    is_proxy,
    load_proxy,
    read_proxy_card,
)
from whence.model.follower import follow
from whence.model.invariance import check_invariance
from whence.model.load import (
    LoadedModel,
    as_loaded,
    config_fingerprint,
    initial_model,
    language_inputs,
    load_model,
    load_tokenizer,
    read_config,
)
from whence.model.metagradient import Rerun, TrainingReplay, metagradient, weights_in
from whence.model.objectives import (
    CausalLM,
    Classification,
    Direction,
    LanguageInputs,
    Margin,
    Objective,
    SquaredError,
    Unsaturated,
)
from whence.model.parallel import dismiss, is_lost, join_team
from whence.model.probe import probe_sites
from whence.model.products import CurvatureKind, curvature_products
from whence.model.sites import block_of, find_sites, parameters_of
from whence.model.states import (
    OPTIMIZER_FILE,
    STATE_FILE,
    StoredState,
    TrainingState,
    evenly,
    keep_states,
    optimizer_tensors,
    write_state,
)
from whence.model.train import optimise, reproducible, trained_parameters
from whence.model.training import Training

__all__ = [
    "OPTIMIZER_FILE",
    "STATE_FILE",
    "Aligner",
    "Capture",
    "CausalLM",
    "Classification",
    "Consumer",
    "CurvatureKind",
    "Direction",
    "FactoredLinear",
    "LanguageInputs",
    "LoadedModel",
    "Margin",
    "Objective",
    "Placement",
    "Rerun",
    "SquaredError",
    "StoredState",
    "Training",
    "TrainingReplay",
    "TrainingState",
    "Unsaturated",
    "as_loaded",
    "block_of",
    "check_invariance",
    "compared",
    "config_fingerprint",
    "coverage",
    "curvature_products",
    "decomposable",
    "dismiss",
    "evenly",
    "factored",
    "factored_copy",
    "find_sites",
    "follow",
    "frozen",
    "has_dropout",
    "initial_model",
    "is_lost",
    "is_proxy",
    "join_team",
    "keep_states",
    "language_inputs",
    "load_model",
    "load_proxy",
    "load_tokenizer",
    "metagradient",
    "optimise",
    "optimizer_tensors",
    "parameters_of",
    "probe_sites",
    "read_config",
    "read_proxy_card",
    "reproducible",
    "resolve_device",
    "set_dropout",
    "trained_parameters",
    "weights_in",
    "write_state",
]
