"""Sketches of gradients: the maps, the codes, and LoGra, GraSS and the dense Fisher against dense matrices."""

import numpy as np
import pytest
import torch

from conftest import documents, write_jsonl
from method_world import QUERIES, make_place, make_truth, open_run
from whence import Attributor
from whence.attributor import run_steps
from whence.attributor.curvatures import load_bases
from whence.attributor.steps import CorpusStep
from whence.errors import InputError
from whence.factors import Factors, OneHot, Routed
from whence.interfaces import Site
from whence.methods import Work, method_scores, parse_method
from whence.projection import TensorSketch, rademacher, sides_kept, sparse_sketch, subset, tensor_sketch, two_sided

CPU, WIDE = torch.device("cpu"), torch.float64


def site(outputs, inputs, **more):
    return Site("layer", outputs, inputs, False, (), more.pop("vocabulary", None), ("layer.weight",), **more)


SITES = {
    "odd": site(7, 5),
    "wide": site(3, 11),
    "embedding": site(6, 13, vocabulary="inputs"),
    "head": site(13, 6, vocabulary="outputs"),
    "vector": site(19, 1, elementwise=True),
    "experts": site(5, 7, experts=3),
}
MAPS = {
    "two sides": lambda place, seed: two_sided(place, 3, 3, seed, CPU, WIDE),
    "mask": lambda place, seed: sparse_sketch(place, 6, 3, False, seed, CPU, WIDE),
    "factored mask": lambda place, seed: sparse_sketch(place, 6, 3, True, seed, CPU, WIDE),
    "tensor": lambda place, seed: tensor_sketch(place, 12, seed, CPU, WIDE),
}


def made_factors(place, examples=4, tokens=5, seed=0):
    random = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=random, dtype=WIDE)  # noqa: E731
    if place.experts:
        rows = examples * tokens * 2
        expert = torch.randint(0, place.experts, (rows,), generator=random).sort().values
        example, token = (torch.randint(0, n, (rows,), generator=random) for n in (examples, tokens))
        shape = (examples, tokens)
        return [
            Routed(draw(rows, place.inputs), draw(rows, place.outputs), expert, example, token, place.experts, shape)
        ]
    if place.vocabulary is None:
        return [Factors(draw(examples, tokens, place.inputs), draw(examples, tokens, place.outputs))]
    size = place.inputs if place.vocabulary == "inputs" else place.outputs
    ones = OneHot(torch.randint(0, size, (examples, tokens), generator=random), size, draw(examples, tokens))
    if place.vocabulary == "inputs":
        return [Factors(ones, draw(examples, tokens, place.outputs))]
    dense = Factors(draw(examples, tokens, place.inputs), draw(examples, tokens, place.outputs))
    return [dense, Factors(draw(examples, tokens, place.inputs), ones)]  # a head tied to the embedding


def blocks_of(uses):
    return sum(use.blocks() for use in uses)


@pytest.mark.parametrize("shape", SITES)
@pytest.mark.parametrize("kind", MAPS)
def test_factors_and_blocks_have_one_sketch(kind, shape, monkeypatch):
    place, uses = SITES[shape], made_factors(SITES[shape])
    made = MAPS[kind](place, 1)
    wanted = made.queries(blocks_of(uses))
    assert wanted.shape == (4, *made.size)
    assert (made.documents(uses) - wanted).abs().max() < 1e-12 * wanted.abs().max()
    if isinstance(made, TensorSketch):
        assert (made.by_token(uses) - wanted).abs().max() < 1e-12 * wanted.abs().max()
        monkeypatch.setattr("whence.projection.sketches._BLOCK_COST", 0)
    monkeypatch.setattr("whence.projection.sketches._SCATTER", 16)
    monkeypatch.setattr("whence.factors.sums.PIECE", 16)
    assert (made.documents(uses) - wanted).abs().max() < 1e-12 * wanted.abs().max()
    assert (made.queries(blocks_of(uses)) - wanted).abs().max() < 1e-12 * wanted.abs().max()


@pytest.mark.parametrize("shape", SITES)
@pytest.mark.parametrize("kind", MAPS)
def test_inner_products_are_kept_on_average(kind, shape):
    place = SITES[shape]
    x, y = (blocks_of(made_factors(place, 1, seed=seed)) for seed in (1, 2))
    y = y + 0.5 * x
    found = []
    for seed in range(250):
        made = MAPS[kind](place, seed)
        found.append(float((made.queries(x) * made.queries(y)).sum()))
    found, wanted = np.array(found), float((x * y).sum())
    error = found.std() / np.sqrt(len(found))
    assert error > 0
    assert abs(found.mean() - wanted) < 4 * error
    assert error < 0.3 * abs(wanted), "nor would the test see anything"


def test_nothing_is_cut_where_all_fits():
    for place in SITES.values():
        eye = torch.eye(place.size, dtype=WIDE).reshape(place.size, *place.shape)
        for made in (two_sided(place, 64, 64, 0, CPU, WIDE), sparse_sketch(place, 4096, 4, True, 0, CPU, WIDE),
                     sparse_sketch(place, 4096, 4, False, 0, CPU, WIDE)):  # fmt: skip
            flat = made.queries(eye).flatten(1)
            assert (flat @ flat.T - torch.eye(place.size)).abs().max() < 1e-12


def test_parts_of_maps_are_what_they_say():
    assert [len(subset(count, 17, 3, "a")) for count in (1, 9, 16, 17, 40)] == [1, 9, 16, 17, 17]
    assert all(len(set(subset(count, 17, seed, "a"))) == min(count, 17) for count in (5, 16) for seed in range(20))
    assert (rademacher(4, 9, 0, "a") != rademacher(4, 9, 0, "b")).any()
    assert sides_kept(site(100, 80), 4, 4) == (4, 4)
    assert sides_kept(site(100, 2), 4, 4) == (8, 2)
    assert sides_kept(site(2, 100), 4, 4) == (2, 8)
    assert sides_kept(site(100, 80, experts=16), 16, 16) == (8, 8)
    # random signs are balanced over columns and rows alike
    assert abs(float(rademacher(64, 64, 0, "a").sign().mean())) < 0.05


# ------------------------------------------------------------------ methods against dense matrices


@pytest.fixture(scope="module", params=["gpt2", "olmoe"])
def world(request, tmp_path_factory):
    place = make_place(tmp_path_factory.mktemp(request.param), request.param)
    owner = open_run(place, place / "run")
    run_steps([CorpusStep(owner)])
    return place, owner, make_truth(place, owner)


def dense(made, rows, shape):
    """A map applied by its own matrix: [n, size] to [n, B, K]."""
    size = rows.shape[1]
    matrix = made.queries(torch.eye(size, dtype=WIDE).reshape(size, *shape)).double()
    return torch.einsum("ns,sbk->nbk", rows, matrix)


def solved_by_hand(sketch, truth, damping, n):
    """``sum over sites and experts of q P (M + l)^-1 P^T z / n``."""
    total = 0.0
    for each in sketch.owner.sites:
        at = truth.slices[each.name]
        phi = dense(sketch.maps[each.name], truth.documents[:, at], each.shape)
        asked = dense(sketch.maps[each.name], truth.queries[:, at], each.shape)
        moments = [phi[:, b].T @ phi[:, b] / n for b in range(phi.shape[1])]
        added = damping * float(torch.stack([m.trace() for m in moments]).sum()) / (phi.shape[1] * phi.shape[2])
        for b, moment in enumerate(moments):
            inverse = torch.linalg.inv(moment + (added or 1.0) * torch.eye(len(moment), dtype=WIDE))
            total = total + asked[:, b] @ inverse @ phi[:, b].T / n
    return total.numpy()


def far(got, wanted):
    return np.abs(got - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize("spec", ["logra:k=3,bits=32", "logra:k=3,init=pca,damping=0.5,bits=32",
                                  "grass:k=7,spread=2,bits=32", "grass:k=7,factored=false,bits=32"])  # fmt: skip
def test_a_dense_inverse_says_the_same(world, spec):
    _, owner, truth = world
    method = parse_method(spec)
    got = method_scores(method, Work(owner), owner.encode_queries(QUERIES))
    sketch = method.sketch(Work(owner))
    wanted = solved_by_hand(sketch, truth, method.damping, owner.trained_on)
    assert far(got, wanted) < 1e-8
    assert far(got, (truth.queries @ truth.documents.T).numpy() / owner.trained_on) > 0.1
    per_window = sum(path.stat().st_size for path in sketch.folder.glob("codes/*/codes.npy")) / owner.corpus.windows
    headers = 128 * len(owner.corpus.shares) / owner.corpus.windows
    wanted = (per_window - headers) * owner.corpus.windows / owner.corpus.documents
    assert method.bytes_per_document(Work(owner)) == pytest.approx(wanted)


def test_pca_keeps_the_most_of_the_covariances(world):
    _, owner, _ = world
    method = parse_method("logra:k=3,init=pca,bits=32")
    run_steps(method.steps(Work(owner)))
    maps, bases = method.sketch(Work(owner)).maps, load_bases(owner.run.curvature, owner.sites)
    for each in owner.sites:
        made, values = maps[each.name], bases[each.name].eigenvalues.double()
        for side, basis, spectrum in ((made.left, bases[each.name].outputs, values.mean(-1)),
                                      (made.right, bases[each.name].inputs, values.mean(-2))):  # fmt: skip
            if side is None:
                continue
            q = torch.eye(spectrum.shape[-1], dtype=WIDE) if basis is None else basis.double()
            kept = ((side @ q).square() * spectrum[..., None, :]).sum((-2, -1))
            best = spectrum.topk(side.shape[-2]).values.sum(-1)
            assert torch.allclose(kept, best, rtol=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_a_dense_fisher_over_all_sites(world, alpha):
    _, owner, truth = world
    method = parse_method(f"fisher:coordinates=40,alpha={alpha},damping=0.3,bits=32")
    got = method_scores(method, Work(owner), owner.encode_queries(QUERIES))
    phi, asked = 0.0, 0.0
    for each in owner.sites:
        made, at = method.sketch(Work(owner)).maps[each.name], truth.slices[each.name]
        shape = (-1, *each.shape)
        curvature, added = made.curvature, 0.3 * float(made.curvature.eigenvalues.mean())
        outputs, inputs = made.weights
        white = outputs[..., :, None] * inputs[..., None, :]
        turned = curvature.rotate(truth.documents[:, at].reshape(shape)) * white
        phi = phi + dense(made.inner, curvature.unrotate(turned).flatten(1), each.shape)[:, 0]
        turned = curvature.rotate(truth.queries[:, at].reshape(shape)) / (curvature.eigenvalues + added) / white
        asked = asked + dense(made.inner, curvature.unrotate(turned).flatten(1), each.shape)[:, 0]
    moment = phi.T @ phi / owner.trained_on
    shrunk = (1 - alpha) * torch.eye(40, dtype=WIDE) + alpha * moment / (moment.trace() / 40)
    wanted = (asked @ torch.linalg.inv(shrunk) @ phi.T / owner.trained_on).numpy()
    assert far(got, wanted) < 1e-8


def test_without_alpha_the_fisher_is_a_sketch_of_ekfac(world):
    """More coordinates, closer."""
    place, owner, _ = world
    encoded, work = owner.encode_queries(QUERIES), Work(owner)
    exact = method_scores(parse_method("ekfac:damping=0.3"), work, encoded)
    errors = {}
    for coordinates in (16, 256, 4096):
        made = parse_method(f"fisher:coordinates={coordinates},alpha=0,damping=0.3,bits=32")
        errors[coordinates] = far(_unsummed(made, work, encoded), exact)
    assert errors[4096] < errors[256] < errors[16]
    noise = 0.8 if place.name.startswith("olmoe") else 0.2  # separable whitening fits rare experts badly
    assert errors[4096] < noise


def _unsummed(method, work, encoded):
    """The Fisher method's sketches with alpha 0, where the second moment is not needed."""
    from whence.attributor import ask

    run_steps(method.steps(work)[:-1])
    sketch = method.sketch(work)
    asked = sketch.of(ask(work.owner, encoded).blocks)
    parts = [sketch.scores(share, asked)[1] for share in work.owner.corpus.shares]
    return np.concatenate(parts, 1) / work.owner.trained_on


# ------------------------------------------------------------------ codes


@pytest.mark.parametrize("world", ["gpt2"], indirect=True)
@pytest.mark.parametrize(("bits", "close"), [(16, 1e-3), (8, 0.02), (1, 3.0)])
def test_scans_read_what_is_stored(world, bits, close):
    """The kernels and the decoder agree, and fewer bits say nearly the same."""
    _, owner, _ = world
    found = {}
    for each in (bits, 32):
        sketch = parse_method(f"logra:k=8,bits={each}").sketch(Work(owner))
        run_steps(parse_method(f"logra:k=8,bits={each}").steps(Work(owner)))
        random = torch.Generator().manual_seed(0)
        vectors = {n: torch.randn(2, *size, generator=random, dtype=WIDE) for n, size in sketch.sizes.items()}
        parts = []
        for share in owner.corpus.shares:
            numbers, scores = sketch.scores(share, vectors)
            by_hand = sum(
                torch.cat(
                    [torch.einsum("qbk,nbk->qn", vectors[name], rows) for _, rows in sketch.documents(share, name)], 1
                )
                for name in sketch.sizes
            ).numpy()
            assert far(scores, by_hand) < 1e-5
            assert (numbers == np.concatenate([n for n, _ in sketch.documents(share, next(iter(sketch.sizes)))])).all()
            parts.append(scores)
        found[each] = np.concatenate(parts, 1)
    assert 0 < far(found[bits], found[32]) < close
    assert np.corrcoef(found[bits].ravel(), found[32].ravel())[0, 1] > (0.7 if bits == 1 else 0.999)


@pytest.mark.parametrize("world", ["gpt2"], indirect=True)
def test_any_damping_reads_the_same_codes(world):
    _, owner, _ = world
    work = Work(owner)
    folders = {parse_method(f"logra:k=4,damping={each}").sketch(work).folder for each in (0.1, 1, 10)}
    assert len(folders) == 1
    assert parse_method("logra:k=5").sketch(work).folder not in folders


def test_bits_are_the_ones_there_are():
    for given in ("4", "16.0", "many"):
        with pytest.raises(InputError, match="bits"):
            parse_method(f"logra:bits={given}")


@pytest.mark.parametrize("spec", ["logra:k=3,bits=32", "trak:k=20,bits=32", "trackstar:k=3,bits=32,moments=none",
                                  "fisher:coordinates=12,alpha=0.3,bits=32", "relatif"])  # fmt: skip
def test_a_weight_is_as_good_as_copies(tmp_path_factory, spec):
    folder = tmp_path_factory.mktemp("weights")
    place = make_place(folder, "gpt2")
    rows = documents(12, words=(5, 12))
    write_jsonl(folder / "a.jsonl", rows[:6])
    write_jsonl(folder / "b.jsonl", rows[6:])
    write_jsonl(folder / "b2.jsonl", [{**row, "id": f"{row['id']}-{copy}"} for copy in range(2) for row in rows[6:]])
    found = {}
    for name, weights in (("b", [{"weight": 1.0}, {"weight": 2.0}]), ("b2", [])):
        settings = {
            "model": {"dtype": "float64"},
            "fit": {"sample": 1.0, "parts": 2, "precision": "full"},
            "corpus": {"sources": weights, "context": 9},
        }
        data = [str(folder / "a.jsonl"), str(folder / f"{name}.jsonl")]
        owner = Attributor(
            folder / f"run-{name}", model=str(place / "model"), data=data, settings=settings, device="cpu"
        )
        found[name] = method_scores(parse_method(spec), Work(owner), owner.encode_queries(QUERIES))
    copies = found["b2"][:, 6:].reshape(len(QUERIES), 2, 6)
    second = copies[:, 0] if parse_method(spec).key in ("trackstar", "relatif") else copies.sum(1)
    assert far(found["b"], np.concatenate([found["b2"][:, :6], second], 1)) < 1e-8
