"""Per-example gradients of every site of every class in the zoo against autograd, one example and backward at a time.

Sites are those that a run uses, and a block is mapped back to parameters by `parameters_of`, so a new kind of site is
judged here as soon as it exists.
"""

from contextlib import contextmanager
from unittest import mock

import pytest
import torch

from oracle import gradients, relative, sequence_loss
from whence.attributor.core import sites_of
from whence.data import batch_from_sequences
from whence.gradients import Runner, gradient_blocks, language_examples
from whence.model import as_loaded, norms, parameters_of
from zoo import VOCABULARY, ZOO, truly_float64

LENGTHS = (11, 6, 9)
LAYOUTS = {"right": {"side": "right"}, "left": {"side": "left"}, "packed": {"pack": 17}}
DOUBLE = 1e-9
SINGLE = 1e-6
ROUNDING = 3.0
"""In float32 autograd itself, one example at a time, is 1e-6 to 3e-5 away from the float64 truth, so whence may be that
far from it, times a little: sums are made in another order."""

AS_IT_IS = dict.fromkeys(("olmo_hybrid", "qwen3_next", "nemotron_h", "nemotron3", "gemma3"), 1e-6)
"""Tolerance of float64 where classes may cast as they like. Their scan or gated delta rule runs in float32, and how its
sums round depends on the batch; Nemotron's own experts add up in float32, ours do not; Gemma multiplies by a norm's
scale in float32. All other classes cast the same numbers in the same way in every batch."""

NOT_IN_FLOAT64 = {"gemma2"}
"""Its attention masks with float64's lowest number and takes the softmax in float32, where that is minus infinity: a
row of padding that sees nothing is then not a number."""


@contextmanager
def float64_in_hooks_too():
    """As `truly_float64`; in a backward hook torch knows nothing of that mode, so it is entered there again."""
    plain = norms._run

    def run(*arguments):
        with truly_float64():
            return plain(*arguments)

    with truly_float64(), mock.patch.object(norms, "_run", run):
        yield


def sequences():
    random = torch.Generator().manual_seed(5)
    out = []
    for number, length in enumerate(LENGTHS):
        mask = torch.arange(length) > (3 if number == 1 else 0)
        out.append((torch.randint(0, VOCABULARY, (length,), generator=random).numpy(), mask.numpy()))
    return out


def truth(model):
    """Gradient of every parameter [E, ...], by autograd alone."""
    tensors = [(torch.from_numpy(tokens), torch.from_numpy(mask)) for tokens, mask in sequences()]
    return gradients(model, [lambda t=t, m=m: sequence_loss(model, t, m) for t, m in tensors])


def runner_of(model):
    loaded = as_loaded(model)
    return loaded, Runner(model, sites_of(loaded, ()))


def by_parameter(model, runner, blocks):
    """Blocks [E, ...] of sites as gradients of parameters [E, ...]."""
    out = {}
    for site in runner.sites:
        parts = [parameters_of(site, model, block) for block in blocks[site.name]]
        for name in parts[0]:
            assert name not in out, "a parameter belongs to one site"
            out[name] = torch.stack([part[name] for part in parts])
    return out


def found(model, loaded, runner, **how):
    batch = batch_from_sequences(sequences(), **how)
    blocks, losses = gradient_blocks(runner, language_examples(batch, loaded))
    return by_parameter(model, runner, blocks), losses


def layouts(loaded):
    return {name: how for name, how in LAYOUTS.items() if loaded.packs or "pack" not in how}


@pytest.mark.parametrize("name", ZOO)
def test_float64(name):
    with float64_in_hooks_too():
        model = ZOO[name](torch.float64)
        wanted = truth(model)
        loaded, runner = runner_of(model)
        for layout, how in layouts(loaded).items():
            got, _ = found(model, loaded, runner, **how)
            for parameter, gradient in got.items():
                assert gradient.dtype == torch.float64
                error = relative(gradient, wanted[parameter])
                assert error < DOUBLE, (name, layout, parameter, error)


@pytest.mark.parametrize("name", [name for name in ZOO if name not in NOT_IN_FLOAT64])
def test_float64_as_the_class_casts(name):
    model = ZOO[name](torch.float64)
    wanted = truth(model)
    got, _ = found(model, *runner_of(model), side="right")
    for parameter, gradient in got.items():
        error = relative(gradient, wanted[parameter])
        assert error < AS_IT_IS.get(name, DOUBLE), (parameter, error)


@pytest.mark.parametrize("name", ZOO)
def test_float32(name):
    with truly_float64():
        exact = truth(ZOO[name](torch.float64))
    model = ZOO[name](torch.float32)
    plain = truth(model)
    loaded, runner = runner_of(model)
    for layout, how in layouts(loaded).items():
        got, _ = found(model, loaded, runner, **how)
        for parameter, gradient in got.items():
            rounding = relative(plain[parameter], exact[parameter])
            error = relative(gradient, exact[parameter])
            assert error < max(SINGLE, ROUNDING * rounding), (layout, parameter, error, rounding)


@pytest.mark.parametrize("name", ZOO)
def test_batch_mates_and_padding_change_nothing(name):
    with float64_in_hooks_too():
        model = ZOO[name](torch.float64)
        loaded, runner = runner_of(model)
        whole, losses = found(model, loaded, runner)
        for rows in ([0], [2, 1]):
            batch = batch_from_sequences([sequences()[row] for row in rows])
            blocks, alone = gradient_blocks(runner, language_examples(batch, loaded))
            torch.testing.assert_close(alone, losses[rows], rtol=1e-12, atol=0)
            for parameter, gradient in by_parameter(model, runner, blocks).items():
                assert relative(gradient, whole[parameter][rows]) < DOUBLE, (rows, parameter)


def test_models_with_a_recurrent_state_do_not_pack():
    packs = {name: as_loaded(make(torch.float32)).packs for name, make in ZOO.items()}
    assert {name for name, each in packs.items() if not each} == {
        "olmo3", "gpt_oss", "gemma2", "gemma3",  # attention slides over a window
        "olmo_hybrid", "qwen3_next", "nemotron_h", "nemotron3",  # a state runs through the row
    }  # fmt: skip
