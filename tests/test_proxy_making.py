"""Making a proxy of a run: against dense covariances by autograd, and nothing that must not matter does."""

import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from method_world import make_place, open_run
from oracle import relative
from whence.attributor import Attributor, run_steps
from whence.attributor.proxies import proxy_steps
from whence.attributor.proxy_making import making_of
from whence.errors import InputError, ModelError
from whence.interfaces import ProxySettings
from whence.methods.base import ekfac_steps
from whence.model import compared, factored, load_proxy, read_proxy_card

KINDS = ("llama", "gpt2", "olmo2", "olmoe")


@pytest.fixture(scope="module", params=KINDS)
def world(request, tmp_path_factory):
    place = make_place(tmp_path_factory.mktemp(request.param), request.param)
    owner = open_run(place, place / "run")
    run_steps(ekfac_steps(owner, measured=False))
    return request.param, place, owner


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    place = make_place(tmp_path_factory.mktemp("llama"))
    owner = open_run(place, place / "run")
    run_steps(ekfac_steps(owner, measured=False))
    return place, owner


def make(owner, out, **settings):
    making = making_of(owner, ProxySettings(**{"documents": 8, "batch": 3, **settings}), out)
    run_steps([*ekfac_steps(owner, measured=False), *proxy_steps(making)])
    return read_proxy_card(out)


def weight_of(model, name):
    module = model.get_submodule(name)
    weight = module.weight.detach()
    return weight.T if type(module).__name__ == "Conv1D" else weight


def stored_moments(owner, name):
    """S and A as stored, from files and nothing else: Q diag(sum of eigenvalues) Q^T."""
    from safetensors.torch import load_file

    site = next(site for site in owner.sites if site.name == name)
    files = [load_file(owner.run.curvature / "basis" / f"{n}.safetensors") for n in (name, site.group)]
    eigenvalues = files[0]["eigenvalues"].double()
    s, a = files[0]["outputs"].double(), files[1]["inputs"].double()
    return (s * eigenvalues.sum(1)) @ s.T, (a * eigenvalues.sum(0)) @ a.T / eigenvalues.sum()


def test_the_weights_are_the_best_of_their_rank(world, tmp_path):
    """Every product against an SVD between roots made here; the bias against a least-squares fit of it."""
    from scipy.linalg import sqrtm

    kind, place, owner = world
    card = make(owner, tmp_path / "p", share=0.6, steps=0, damping=0.05)
    target = AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float64)
    proxy = load_proxy(tmp_path / "p", dtype=torch.float64)
    assert {site.name for site in card.sites} >= set(card.ranks)
    assert len(card.sites) == {"llama": 14, "gpt2": 8, "olmo2": 14, "olmoe": 8}[kind]
    for name, product in factored(proxy).items():
        weight = weight_of(target, name)
        s, a = stored_moments(owner, name)
        if product.up.bias is not None:
            mean = a[:-1, -1] / a[-1, -1]
            a = a[:-1, :-1] - torch.outer(mean, mean) * a[-1, -1]
        s, a = (m.numpy() + 0.05 * np.trace(m.numpy()) / len(m) * np.eye(len(m)) for m in (s, a))
        root_s, root_a = np.real(sqrtm(s)), np.real(sqrtm(a))
        u, values, vt = np.linalg.svd(root_s @ weight.numpy() @ root_a)
        rank = card.ranks[name]
        wanted = np.linalg.solve(root_s, u[:, :rank] * values[:rank]) @ np.linalg.solve(root_a, vt[:rank].T).T
        found = (product.up.weight @ product.down.weight).detach()
        assert relative(found, torch.from_numpy(wanted)) < 1e-6
        line = next(site for site in card.sites if site.name == name)
        assert line.error == pytest.approx(float((values[rank:] ** 2).sum()) / 2, rel=1e-6, abs=1e-9)
        if product.up.bias is not None:
            shift = product.up.bias.detach() - target.get_submodule(name).bias.detach()
            assert relative(shift, (weight - found) @ mean) < 1e-6


def test_what_is_kept_and_what_is_said(world, tmp_path):
    kind, place, owner = world
    card = make(owner, tmp_path / "p", share=0.6, steps=0)
    target = AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float64)
    proxy = load_proxy(tmp_path / "p", dtype=torch.float64)
    whole = sum(site.outputs * site.inputs for site in card.sites)
    spent = sum(
        (site.outputs + site.inputs) * site.rank if site.rank else site.outputs * site.inputs for site in card.sites
    )
    assert 0.4 * whole < spent <= 0.6 * whole
    kinds = {each.kind: (each.before, each.after) for each in card.kinds}
    assert kinds["linear layers in the blocks"] == (whole, spent)
    assert sum(before for before, _ in kinds.values()) == sum(p.numel() for p in target.parameters())
    assert sum(after for _, after in kinds.values()) == sum(p.numel() for p in proxy.parameters())
    assert sum(site.error for site in card.sites) <= sum(site.even for site in card.sites) + 1e-12
    assert ("expert stacks" in kinds) == (kind == "olmoe") == bool(card.kept)
    ours = dict(proxy.named_parameters())
    for name, value in target.named_parameters():
        if name.rpartition(".")[0] not in card.ranks:
            assert torch.equal(ours[name], value)
    assert card.target == str(place / "model")
    assert card.fingerprint == owner.loaded.fingerprint
    assert card.corpus == owner.corpus.fingerprint
    assert [check.stage for check in card.checks] == ["decomposed"]
    assert not list((owner.run.path / "proxies").rglob("*.safetensors"))


def test_the_run_of_a_proxy_works_unchanged(world, tmp_path):
    """Fit, index and trace of a proxy; its influence is that of its own dense gradients."""
    from whence import Query

    _, place, owner = world
    make(owner, tmp_path / "p", share=0.6, steps=2)
    settings = {"model": {"dtype": "float64"}, "recipe": {"precision": "full", "method": "identity", "bits": 16}}
    settings |= {"fit": {"method": "identity"}, "corpus": {"context": 9}}
    run = Attributor(
        tmp_path / "run", model=str(tmp_path / "p"), data=[str(place / "corpus.jsonl")], settings=settings, device="cpu"
    )
    assert run.coverage.share == 1.0
    run.index()
    result = run.trace([Query(prompt="the harbour was", completion="built before")], k=3)
    assert len(result.traces[0].proponents) == 3


def test_alignment_helps_on_documents_held_out(llama, tmp_path):
    _, owner = llama
    card = make(owner, tmp_path / "p", share=0.9, steps=40, rate=0.005, documents=16, batch=8)
    first, last = card.checks
    assert (first.stage, last.stage) == ("decomposed", "aligned")
    assert first.documents == last.documents > 1
    assert last.cosine > first.cosine
    assert first.target == pytest.approx(last.target)


def test_the_check_is_what_it_says(llama, tmp_path):
    place, owner = llama
    card = make(owner, tmp_path / "p", share=0.6, steps=3)
    making = making_of(owner, card.settings, tmp_path / "p")
    held = making.documents[1]
    assert not set(held) & set(making.documents[0])
    assert len(making.documents[0]) <= 8
    target = AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float64)
    proxy = load_proxy(tmp_path / "p", dtype=torch.float64)
    sums = np.zeros(3)
    for row in held:
        tokens, mask = owner.corpus.window_tokens(int(row))
        from conftest import as_loaded
        from whence.data import batch_from_sequences
        from whence.model import language_inputs

        batch = language_inputs(batch_from_sequences([(np.array(tokens), mask)]), as_loaded(target))
        found = compared(target, proxy, batch, 1.0, graph=False)
        sums += [float(found.distance), float(found.divergence), float(batch.predicts.sum())]
    assert card.checks[-1].cosine == pytest.approx(1 - sums[0] / len(held) / 2)
    assert card.checks[-1].divergence == pytest.approx(sums[1] / sums[2])


def test_the_same_rank_everywhere(llama, tmp_path):
    _, owner = llama
    card = make(owner, tmp_path / "p", rank=3, steps=0)
    assert set(card.ranks.values()) == {3}
    narrow = {site.name for site in card.sites if 3 * (site.outputs + site.inputs) >= site.outputs * site.inputs}
    assert narrow == {site.name for site in card.sites} - set(card.ranks)
    assert narrow  # k and v of one head are narrow


def test_killed_and_resumed_with_the_same_bytes(llama, tmp_path):
    """Killed after every item and in the middle of the alignment; workers in turn."""
    place, owner = llama
    settings = {"share": 0.6, "steps": 20}
    whole = make(owner, tmp_path / "whole", **settings)
    cut = tmp_path / "cut"
    moved = tmp_path / "run"
    shutil.copytree(owner.run.path, moved, symlinks=True)
    shutil.rmtree(moved / "proxies", ignore_errors=True)
    kills = 0
    for _ in range(100):
        other = open_run(place, moved)
        making = making_of(other, ProxySettings(documents=8, batch=3, **settings), cut)
        step = next((each for each in proxy_steps(making) if not each.finished()), None)
        if step is None:
            break
        todo = [item for item in step.items() if not step.done(item)]
        if not todo:
            assert step.finish()
            continue
        calls = 0

        def advance(tokens):
            nonlocal calls
            calls += 1
            if calls == 5:
                raise KeyboardInterrupt

        try:
            step.run(todo[-1], (0, 1), advance)
        except KeyboardInterrupt:
            kills += 1
            assert not step.done(todo[-1])
    assert kills > 3
    assert read_proxy_card(cut) == whole
    for name in ("model.safetensors", "proxy.json", "config.json"):
        assert (cut / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_order_and_batches_change_nothing(llama, tmp_path):
    place, owner = llama
    make(owner, tmp_path / "a", share=0.6, steps=4)
    wanted = load_proxy(tmp_path / "a", dtype=torch.float64).state_dict()
    for name, how in (
        ("b", {"data": "reversed.jsonl"}),
        ("c", {"batch_tokens": 9}),
        ("d", {"corpus": {"share_documents": 3}}),
    ):
        other = open_run(place, tmp_path / f"run-{name}", **how)
        make(other, tmp_path / name, share=0.6, steps=4)
        found = load_proxy(tmp_path / name, dtype=torch.float64).state_dict()
        assert all(relative(found[key], value) < 1e-7 for key, value in wanted.items())


def test_what_is_refused(llama, tmp_path):
    place, owner = llama
    with pytest.raises(InputError, match=r"--share 0\.01 keeps less than rank 1"):
        make(owner, tmp_path / "a", share=0.01, steps=0)
    with pytest.raises(InputError, match="no product is smaller"):
        make(owner, tmp_path / "a", rank=50, steps=0)
    heads = Attributor(
        tmp_path / "heads", model=str(place / "model"), data=[str(place / "corpus.jsonl")], device="cpu",
        settings={"model": {"sites": ("lm_head",), "dtype": "float64"}, "corpus": {"context": 9}},
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"no linear layer in its blocks that the run has fitted.*--sites"):
        make(heads, tmp_path / "a")
    make(owner, tmp_path / "p", share=0.6, steps=0)
    again = Attributor(
        tmp_path / "again", model=str(tmp_path / "p"), data=[str(place / "corpus.jsonl")], device="cpu",
        settings={"model": {"dtype": "float64"}, "corpus": {"context": 9}},
    )  # fmt: skip
    with pytest.raises(ModelError, match="is a proxy already"):
        make(again, tmp_path / "b")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"share": 1.0}, "less than 1"),
        ({"share": 0.0}, "greater than 0"),
        ({"share": 0.5, "rank": 2}, "give one of them"),
    ],
)
def test_settings_out_of_range(given, said):
    with pytest.raises(ValueError, match=said):
        ProxySettings(**given)
