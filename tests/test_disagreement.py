"""Disagreement with the documents nearest by gradient: neighbours by code, planted wrong tags, tags of no use."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from audit_world import train, world
from command_line import launch
from whence.audits.disagreement import code_neighbours, code_vectors, disagreement_issue, outliers
from whence.projection import encode, layout_sites, rotate_blocks
from whence.report import read_reports

WRONG = 6


def clustered(count=120, groups=4, width=512, seed=0):
    """Vectors [N, width] about a centre for each group, and their groups."""
    draw = np.random.default_rng(seed)
    of = np.arange(count) % groups
    return draw.normal(size=(groups, width))[of] + 0.8 * draw.normal(size=(count, width)), of


def coded(vectors, windows, bits):
    """An index of two sites that holds these vectors, as the run's own does."""
    half = vectors.shape[1] // 2
    layouts = layout_sites({"a": (half, 256, 256), "b": (half, 128, 128)}, bits)
    codes, scales = [], []
    for at, part in zip(layouts, (vectors[:, :half], vectors[:, half:]), strict=True):
        signed = torch.from_numpy(part).float() * (2.0 * (torch.arange(half) % 3 == 0) - 1)
        rotated = rotate_blocks(signed, at.block)
        rotated *= signed.norm() / rotated.norm()
        one, two = encode(rotated, at)
        codes.append(one)
        scales.append(two)
    share = SimpleNamespace(codes=np.concatenate(codes, 1), scales=np.concatenate(scales, 1), windows=windows)

    class Index:
        def __init__(self):
            self.layouts = tuple(layouts)

        def __iter__(self):
            return iter([share])

    return Index()


@pytest.mark.parametrize(("bits", "coordinates"), [(1, 8192), (8, 8192), (8, 200)])
def test_neighbours_by_code_are_those_by_gradient(bits, coordinates):
    vectors, of = clustered()
    numbers = np.arange(len(vectors))
    index = coded(vectors, np.stack([numbers, 0 * numbers, 0 * numbers + 9], axis=1), bits)
    found = code_vectors(index, len(vectors) + 1, coordinates)
    np.testing.assert_allclose(np.linalg.norm(found[:-1], axis=1), 1.0, rtol=1e-5)
    assert not found[-1].any()
    truth = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    off = np.abs(found[:-1] @ found[:-1].T - truth @ truth.T)
    assert off[~np.eye(len(off), dtype=bool)].mean() < (0.15 if bits == 1 else 0.01 if coordinates > 500 else 0.08)
    near, cosines = code_neighbours(found[:-1])
    assert (of[near] == of[:, None]).mean() > 0.99
    assert (np.diff(cosines, axis=1) <= 0).all()
    assert not (near == numbers[:, None]).any()


def test_windows_of_a_document_add_up():
    vectors, _ = clustered(6)
    whole = vectors.copy()
    whole[2] += vectors[3]
    document = np.array([0, 1, 2, 2, 3, 4])
    index = coded(vectors, np.stack([document, 0 * document, 0 * document + 9], axis=1), 16)
    found = code_vectors(index, 5)
    truth = whole[[0, 1, 2, 4, 5]]
    truth /= np.linalg.norm(truth, axis=1, keepdims=True)
    np.testing.assert_allclose(found @ found.T, truth @ truth.T, atol=2e-3)


def test_planted_wrong_tags_are_found_and_right_ones_left():
    vectors, of = clustered()
    given = [f"group {each}" for each in of.tolist()]
    planted = list(range(0, WRONG * 7, 7))
    for number in planted:
        given[number] = f"group {(of[number] + 1) % 4}"
    given[50] = None
    near = code_neighbours((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32))
    lots = np.random.default_rng(0).choice(["red", "blue"], len(given)).tolist()
    found = outliers(near, {"group": given, "lot": lots, "constant": ["x"] * len(given)})
    assert [number for number, each in enumerate(found) if each is not None] == planted
    first = found[0]
    assert (first.tag, first.own, first.other) == ("group", "group 1", "group 0")
    issue = disagreement_issue(first)
    assert issue.action == "relabel"
    assert 0.3 < issue.confidence < 0.6  # a reason to look, which never decides
    assert "group is group 1, but" in issue.reason
    assert "have group 0" in issue.reason


def test_few_documents_or_none_are_no_error():
    empty = code_neighbours(np.zeros((1, 4), dtype=np.float32))
    assert outliers(empty, {"a": ["x"]}) == [None]
    assert outliers(code_neighbours(np.zeros((0, 4), dtype=np.float32)), {}) == []


def test_a_run_finds_tags_that_its_model_knows_better(tmp_path):
    rows, _, _ = world()
    wrong = [row["id"] for row in rows if row["source"] == "almanac"][:WRONG]
    for row in rows:
        if row["id"] in wrong:
            row["source"] = "gazette"
    train(tmp_path, rows, [], epochs=6)
    assert launch(
        "audit", "corpus", "--run", tmp_path / "run", "--model", tmp_path / "model", "--data",
        tmp_path / "corpus.jsonl", "--out", tmp_path / "audit",
    ) == 0  # fmt: skip
    reports = list(read_reports(tmp_path / "audit"))
    found = {each.id for each in reports if any(issue.kind == "disagreement" for issue in each.issues)}
    assert set(wrong) <= found
    assert len(found - set(wrong)) <= 2
    one = next(each for each in reports if each.id == wrong[0])
    issue = next(issue for issue in one.issues if issue.kind == "disagreement")
    assert "source is gazette" in issue.reason
    assert one.signals["disagreement"] > 0.3
    table = [json.loads(line) for line in (tmp_path / "audit" / "documents.jsonl").read_text().splitlines()]
    assert next(row for row in table if row["id"] == wrong[0])["disagreement"] == one.signals["disagreement"]
