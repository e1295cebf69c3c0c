"""A run of a model so small that its exact curvature is a matrix, and that matrix from autograd alone.

GPT-2, because it computes in float64 throughout where it is loaded so. Everything is in the order of the run's sites.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from conftest import WORD_COUNT, causal_lm, rows, save_model, shake, write_jsonl
from method_world import Truth, make_truth, open_run
from test_capture import expected
from whence.attributor import ask, run_steps
from whence.attributor.fitting import fit_sample
from whence.curvature import Damping
from whence.gradients import Recipe
from whence.methods import Work
from whence.methods.base import diagonal_steps
from whence.methods.ekfac import Ekfac

TINY = {"n_embd": 4, "n_layer": 1, "n_head": 1, "n_positions": 10, "n_inner": 6}


@dataclass
class Exact:
    """Dense float64 curvature.

    Attributes:
        work: What methods may use; the run's diagonal has been fitted, and EK-FAC.
        truth: Gradients.
        documents: The documents that the curvature is over.
        ggn: Gauss-Newton matrix per document, [P, P].
        hessian: Hessian per document, [P, P].
        means: Mean eigenvalue of every parameter's own site under drawn labels, [P].
    """

    work: Work
    truth: Truth
    documents: np.ndarray
    ggn: Tensor
    hessian: Tensor
    means: Tensor

    def question(self):
        return ask(self.work.owner, self.truth.encoded)

    def flat(self, blocks) -> Tensor:
        """Vectors by site as rows [Q, P]."""
        return torch.cat([blocks[site.name].flatten(1) for site in self.work.owner.sites], 1)

    def solved(self, method) -> Tensor:
        """A method's vectors of the queries after the steps that are missing, [Q, P]."""
        run_steps(method.steps(self.work))
        return self.flat(method.solve(self.work, self.question()))

    def wanted(self, damping: float, matrix: Tensor | None = None) -> Tensor:
        """``(C + diag l)^-1 q`` by an explicit solve, [Q, P]."""
        matrix = self.ggn if matrix is None else matrix
        return torch.linalg.solve(matrix + torch.diag(damping * self.means), self.truth.queries.T).T


def dense_ggn(model, sites, windows) -> Tensor:
    """``sum_t J^T (diag p - p p^T) J`` over windows, [P, P]; one window and one backward pass per logit."""
    total = 0.0
    names = dict(model.named_parameters())
    model.requires_grad_(True)
    for tokens, mask in windows:
        ids = torch.from_numpy(np.array(tokens))
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
        for t in range(1, len(ids)):
            if not mask[t]:
                continue
            p = logits[t - 1].softmax(-1).detach()
            ones = torch.eye(len(p), dtype=p.dtype)
            rows = torch.autograd.grad(
                logits[t - 1], list(names.values()), ones, is_grads_batched=True, retain_graph=True, allow_unused=True
            )
            grads = {
                name: torch.zeros(len(p), *each.shape, dtype=p.dtype) if row is None else row
                for (name, each), row in zip(names.items(), rows, strict=True)
            }
            jacobian = torch.cat([expected(model, site, grads).flatten(1) for site in sites], 1)
            total = total + jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian
    return total


def dense_hessian(model, sites, windows) -> Tensor:
    """Hessian of the summed loss over windows, [P, P], row by row of the gradient."""
    model.set_attn_implementation("eager")
    names = dict(model.named_parameters())
    model.requires_grad_(True)
    total = 0.0
    for tokens, mask in windows:
        ids = torch.from_numpy(np.array(tokens))
        logp = model(input_ids=ids[None], use_cache=False).logits[0].log_softmax(-1)
        loss = -sum(logp[t - 1, ids[t]] for t in range(1, len(ids)) if mask[t])
        first = torch.autograd.grad(loss, list(names.values()), create_graph=True)
        by_name = {name: each[None] for name, each in zip(names, first, strict=True)}
        gradient = torch.cat([expected(model, site, by_name).flatten(1) for site in sites], 1)[0]
        ones = torch.eye(len(gradient), dtype=gradient.dtype)
        rows = torch.autograd.grad(gradient, list(names.values()), ones, is_grads_batched=True, allow_unused=True)
        grads = {
            name: torch.zeros(len(gradient), *each.shape, dtype=gradient.dtype) if row is None else row
            for (name, each), row in zip(names.items(), rows, strict=True)
        }
        total = total + torch.cat([expected(model, site, grads).flatten(1) for site in sites], 1)
    return total.detach()


def make_exact(folder: Path, seed: int = 0, hessian: bool = False, sample: float = 0.3, **fit) -> Exact:
    """The run of a model drawn with a seed, its fits, and its curvature."""
    save_model(folder / "model", shake(causal_lm("gpt2", vocab_size=WORD_COUNT, **TINY), seed), torch.float64)
    write_jsonl(folder / "corpus.jsonl", rows())
    owner = open_run(folder, folder / "run", sample=sample, min_documents=1, seed=seed, batch_tokens=1000, **fit)
    work = Work(owner)
    run_steps([*Ekfac().steps(work), *diagonal_steps(owner)])
    truth = make_truth(folder, owner)
    documents = np.sort(fit_sample(owner).documents)
    ggn = dense_ggn(truth.model, owner.sites, windows_of(truth, documents)) / len(documents)
    second = torch.zeros(())
    if hessian:
        second = dense_hessian(truth.model, owner.sites, windows_of(truth, documents)) / len(documents)
    damped = owner.damped(Recipe(method="diagonal", damping=Damping(value=1.0)))
    means = [torch.full((site.size,), damped[site.name][1], dtype=torch.float64) for site in owner.sites]
    return Exact(work, truth, documents, ggn, second, torch.cat(means))


def windows_of(truth: Truth, documents) -> list:
    """Windows of some documents."""
    return [each for each, document in zip(truth.windows, truth.owners, strict=True) if document in documents]


def blocks_of(sites, rows: Tensor) -> dict[str, Tensor]:
    """Rows [Q, P] as vectors by site."""
    parts = rows.split([site.size for site in sites], 1)
    return {site.name: part.reshape(-1, *site.shape) for site, part in zip(sites, parts, strict=True)}
