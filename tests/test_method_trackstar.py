"""TrackStar against dense matrices: corrected, projected, whitened, of length one."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from checkpoint_world import make_checkpoints
from method_world import QUERIES, make_place, make_truth, open_run
from whence import Query
from whence.attributor import run_steps
from whence.attributor.steps import CorpusStep
from whence.methods import Work, method_scores, parse_method
from whence.methods.trackstar import TrackStar
from whence.model import block_of
from whence.projection import two_sided

CPU, WIDE = torch.device("cpu"), torch.float64


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    place = make_place(tmp_path_factory.mktemp("trackstar"), "gpt2")
    owner = open_run(place, place / "run")
    run_steps([CorpusStep(owner)])
    return place, owner, make_truth(place, owner)


def by_hand(owner, truth, k, damping, moments=None):
    """Cosines after an explicit inverse square root, all sites side by side."""
    sides = {"documents": [], "queries": []}
    for site in owner.sites:
        at, shape = truth.slices[site.name], (-1, *site.shape)
        divided = torch.ones(site.shape, dtype=WIDE)
        if moments is not None:
            values = moments[site.name].double()
            mean = values.mean()
            rows = (values.mean(1) / mean).clamp_min(1e-4)
            columns = (values.mean(0) / mean).clamp_min(1e-4)
            divided = torch.outer(rows, columns).sqrt()
        eye = torch.eye(site.size, dtype=WIDE).reshape(site.size, *site.shape)
        matrix = two_sided(site, k, k, 0, CPU, WIDE).queries(eye)[:, 0]
        phi, asked = (
            (rows[:, at].reshape(shape) / divided).flatten(1) @ matrix for rows in (truth.documents, truth.queries)
        )
        moment = phi.T @ phi / len(phi)
        values, vectors = torch.linalg.eigh(moment + damping * moment.trace() / len(moment) * torch.eye(len(moment)))
        root = vectors @ torch.diag(values.rsqrt()) @ vectors.T
        sides["documents"].append(phi @ root)
        sides["queries"].append(asked @ root)
    documents, queries = (torch.cat(parts, 1) for parts in sides.values())
    documents, queries = (each / each.norm(dim=1, keepdim=True) for each in (documents, queries))
    return (queries @ documents.T).numpy()


def far(got, wanted):
    return np.abs(got - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize("damping", [0.1, 2.0])
def test_without_moments(world, damping):
    _, owner, truth = world
    method = parse_method(f"trackstar:k=3,moments=none,damping={damping},bits=32")
    got = method_scores(method, Work(owner), owner.encode_queries(QUERIES))
    assert far(got, by_hand(owner, truth, 3, damping)) < 1e-8
    assert np.abs(got).max() <= 1 + 1e-12


def test_with_the_optimizers_moments(world):
    place, owner, truth = world
    checkpoints = make_checkpoints(place)
    stored = load_file(checkpoints[-1].optimizer)
    named = {name.removeprefix("exp_avg_sq:"): value for name, value in stored.items() if "exp_avg_sq" in name}
    moments = {site.name: block_of(site, truth.model, named) for site in owner.sites}
    got = method_scores(parse_method("trackstar:k=3,bits=32"), Work(owner, checkpoints), owner.encode_queries(QUERIES))
    assert far(got, by_hand(owner, truth, 3, 0.1, moments)) < 1e-7  # moments are kept in float32
    assert far(got, by_hand(owner, truth, 3, 0.1)) > 0.01


def test_with_the_diagonal_of_the_curvature(world):
    _, owner, truth = world
    got = method_scores(parse_method("trackstar:k=3,bits=32"), Work(owner), owner.encode_queries(QUERIES))
    found = {
        site.name: load_file(owner.run.curvature / "diagonal" / f"{site.name}.safetensors")["eigenvalues"]
        for site in owner.sites
    }
    assert far(got, by_hand(owner, truth, 3, 0.1, found)) < 1e-7


def test_a_document_is_closest_to_itself(world):
    """Both sides have length one: a query that is a document of one window, all of it, scores 1."""
    _, owner, _ = world
    rows = [(n, owner.corpus.window(n)[0]) for n in range(owner.corpus.windows)]
    counts = np.bincount([document for _, document in rows])
    row, document = next((n, d) for n, d in rows if counts[d] == 1 and owner.corpus.window_tokens(n)[1][1:].all())
    tokens, _ = owner.corpus.window_tokens(row)
    words = [owner.tokenizer.decode([int(token)]) for token in tokens]
    query = Query(prompt=words[0], completion=" " + " ".join(words[1:]))
    encoded = owner.encode_queries([query])
    assert encoded[0].text.tokens.tolist() == tokens.tolist()
    for spec in ("trackstar:k=3,bits=32", "trackstar:k=3,bits=16"):
        got = method_scores(parse_method(spec), Work(owner), encoded)
        assert got[0].argmax() == document
        assert got[0, document] == pytest.approx(1.0, abs=1e-10 if "32" in spec else 1e-3)


def test_what_has_no_unit_says_so():
    assert TrackStar.unit == "score"
