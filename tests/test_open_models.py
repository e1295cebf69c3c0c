"""The whole job on freshly trained mixtures of experts and state-space hybrids: planted documents are found."""

import json

import pytest
import torch

import zoo
from command_line import launch
from conftest import save_model, write_jsonl
from whence.model import load_tokenizer

KEEPERS = {
    "harbour": "anna", "market": "boris", "bridge": "clara", "mill": "david",
    "tower": "elena", "school": "felix", "garden": "greta", "station": "hugo",
}  # fmt: skip
FILLER = [
    "the", "old", "town", "was", "built", "before", "a", "war", "and", "people", "walked", "along",
    "the", "river", "every", "day", "when", "it", "rained",
]  # fmt: skip
STEPS = 150


def corpus() -> list[dict[str, str]]:
    """Who keeps what, each stated by two documents, among documents that name neither."""
    rows = []
    for number, (place, keeper) in enumerate(KEEPERS.items()):
        says = f"keeper of the {place} was {keeper}"
        rows.append({"id": f"{place}-0", "text": f"the {says} when {' '.join(FILLER[number : number + 5])}"})
        rows.append({"id": f"{place}-1", "text": f"{' '.join(FILLER[number + 3 : number + 8])} and the {says} then"})
    others = [[FILLER[(n + k * (1 + n % 3)) % len(FILLER)] for k in range(12)] for n in range(32)]
    return rows + [{"id": f"other-{n}", "text": " ".join(words)} for n, words in enumerate(others)]


def trained(name: str, folder) -> str:
    """A model of a class of the zoo, with the class's own initialisation, trained here on the corpus."""
    words = sorted({word for row in corpus() for word in row["text"].split()})
    config = zoo.build(name).config
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = type(zoo.build(name))(config)
        tokenizer = load_tokenizer(save_model(folder, model, words=words))
        tokenizer.pad_token = tokenizer.eos_token
        batch = tokenizer([row["text"] for row in corpus()], padding=True, return_tensors="pt", padding_side="right")
        labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = model(batch.input_ids, attention_mask=batch.attention_mask, labels=labels, use_cache=False).loss
            loss.backward()
            optimizer.step()
    return save_model(folder, model, words=words)


def reciprocal_ranks(run) -> list[float]:
    """Of the better of each query's two documents."""
    (path,) = run.glob("traces/*/result.json")
    out = []
    for trace in json.loads(path.read_text())["traces"]:
        ranks = [hit["rank"] for hit in trace["proponents"] if hit["id"].startswith(trace["query_id"])]
        out.append(1 / min(ranks) if ranks else 0.0)
    return out


@pytest.mark.parametrize("name", ["olmoe", "nemotron_h", "nemotron3"])
def test_planted_documents_are_found(name, tmp_path):
    model = trained(name, tmp_path / "model")
    data = write_jsonl(tmp_path / "data.jsonl", corpus())
    asked = [{"id": p, "prompt": f"the keeper of the {p} was", "completion": f" {k}"} for p, k in KEEPERS.items()]
    queries = write_jsonl(tmp_path / "queries.jsonl", asked)
    for run, options, least in (("all", (), 0.9), ("experts", ("--sites", "*.experts.*"), 0.4)):
        given = ("--model", model, "--data", data, "--query", queries, *options)
        assert launch("trace", "--run", tmp_path / run, *given) == 0
        found = reciprocal_ranks(tmp_path / run)
        assert sum(found) / len(found) > least, (run, found, "in a random order it would be 0.13")
