"""Dense float64 answers from autograd alone: one example at a time, one backward each. Imports nothing of whence.

Blocks are oriented like a site, [outputs, inputs] with the bias as a last column. Everything here is slow and plain on
purpose; it is what the fast code is judged by.
"""

import torch
from torch import Tensor, nn


def sequence_loss(model: nn.Module, tokens: Tensor, targets: Tensor, labels: Tensor | None = None) -> Tensor:
    """-log p, summed over the target tokens of one unpadded sequence [T]; `labels` replace the tokens to predict."""
    logits = model(input_ids=tokens[None], use_cache=False).logits[0]
    logp = logits.log_softmax(-1)
    wanted = tokens if labels is None else labels
    return -sum((logp[t - 1, wanted[t]] for t in range(1, len(tokens)) if targets[t]), logits.new_zeros(()))


def draw_labels(model: nn.Module, tokens: Tensor, uniforms: Tensor) -> Tensor:
    """Labels drawn from the model by inverse CDF: the token at t+1 from the distribution and the uniform at t."""
    with torch.no_grad():
        cdf = model(input_ids=tokens[None], use_cache=False).logits[0].softmax(-1).cumsum(-1)
    labels = tokens.clone()
    for t in range(len(tokens) - 1):
        labels[t + 1] = int((cdf[t] <= uniforms[t] * cdf[t, -1]).sum().clamp_max(len(cdf[t]) - 1))
    return labels


def gradients(model: nn.Module, losses: list) -> dict[str, Tensor]:
    """Every parameter's gradient of each loss (callables, one backward each), [E, ...] by parameter name."""
    names = dict(model.named_parameters())
    wanted = {name: p.requires_grad for name, p in names.items()}
    out: dict[str, list[Tensor]] = {name: [] for name in names}
    model.requires_grad_(True)
    for loss in losses:
        model.zero_grad(set_to_none=True)
        loss().backward()
        for name, p in names.items():
            out[name].append(torch.zeros_like(p) if p.grad is None else p.grad.clone())
    model.zero_grad(set_to_none=True)
    for name, p in names.items():
        p.requires_grad_(wanted[name])
    return {name: torch.stack(parts) for name, parts in out.items()}


def block(grads: dict[str, Tensor], weight: str, *, transposed: bool = False, bias: str | None = None) -> Tensor:
    """A site's gradient [E, O, I]: weights stored [I, O] (Conv1D, embedding) transposed, the bias as last column."""
    out = grads[weight].transpose(1, 2) if transposed else grads[weight]
    return out if bias is None else torch.cat([out, grads[bias][..., None]], -1)


def sides(model: nn.Module, module: nn.Module, loss) -> tuple[Tensor, Tensor]:
    """What a module was given [T, I] and the gradient of its output [T, O] in one run of one example's loss."""
    seen: dict[str, Tensor] = {}

    def hook(_, args, output):
        seen["a"] = args[0].detach().clone()
        output.retain_grad()
        seen["g"] = output

    wanted = [(p, p.requires_grad) for p in model.parameters()]
    model.requires_grad_(True)
    handle = module.register_forward_hook(hook)
    try:
        loss().backward()
    finally:
        handle.remove()
        model.zero_grad(set_to_none=True)
        for p, before in wanted:
            p.requires_grad_(before)
    a, g = seen["a"], seen["g"].grad
    return (a.reshape(-1) if not a.is_floating_point() else a.reshape(-1, a.shape[-1])), g.reshape(-1, g.shape[-1])


def moments(vectors: Tensor) -> Tensor:
    """``mean_t x_t x_t^T`` of [T, K] in a plain loop."""
    return sum(torch.outer(x, x) for x in vectors) / len(vectors)


def eigenvectors(matrix: Tensor) -> Tensor:
    return torch.linalg.eigh((matrix + matrix.T) / 2)[1]


def kron(outputs: Tensor, inputs: Tensor) -> Tensor:
    """The matrix [O·I, O·I] that acts on a row-major flattened block as ``S G A``."""
    return torch.kron(outputs.contiguous(), inputs.contiguous())


def dense_ekfac(outputs: Tensor | None, inputs: Tensor | None, eigenvalues: Tensor) -> Tensor:
    """``(Q_S (x) Q_A) diag(Lambda) (Q_S (x) Q_A)^T`` on row-major flattened blocks."""
    o, i = eigenvalues.shape
    q = kron(
        torch.eye(o, dtype=eigenvalues.dtype) if outputs is None else outputs,
        torch.eye(i, dtype=eigenvalues.dtype) if inputs is None else inputs,
    )
    return q @ torch.diag(eigenvalues.reshape(-1)) @ q.T


def fisher(blocks: Tensor) -> Tensor:
    """``mean_n vec(G_n) vec(G_n)^T`` of [N, O, I]."""
    flat = blocks.flatten(1)
    return flat.T @ flat / len(flat)


def relative(got: Tensor, wanted: Tensor) -> float:
    """``|got - wanted| / |wanted|``, Frobenius, in float64."""
    got, wanted = got.double(), wanted.double()
    return float((got - wanted).norm() / wanted.norm().clamp_min(1e-300))
