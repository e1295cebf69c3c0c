"""The whole job on freshly trained mixtures of experts and state-space hybrids: planted documents are found."""

import json

import pytest
import torch

import whence
import zoo
from command_line import launch
from conftest import save_model, write_jsonl
from test_data_support import SENTENCES, tokenizer
from whence.model import load_tokenizer

KEEPERS = {
    "harbour": "anna", "market": "boris", "bridge": "clara", "mill": "david",
    "tower": "elena", "school": "felix", "garden": "greta", "station": "hugo",
}  # fmt: skip
FILLER = [
    "the", "old", "town", "was", "built", "before", "a", "war", "and", "people", "walked", "along",
    "the", "river", "every", "day", "when", "it", "rained",
]  # fmt: skip
STEPS = 80
"""After 150 the loss is near zero, gradients vanish, and what is left of them in experts differs between processors."""


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


@pytest.mark.parametrize("name", zoo.ZOO)
def test_every_class_is_traced_whole(name, tmp_path):
    """Everything is attributed, parts sum to wholes, and what an index says is what running the model says."""
    torch.manual_seed(0)
    zoo.build(name, vocab_size=400).save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    texts = [" ".join(SENTENCES[(n + k) % 4] for k in range(1 + n % 3)) for n in range(8)]
    data = write_jsonl(tmp_path / "data.jsonl", [{"text": text} for text in texts])
    settings = {"corpus": {"context": 24}, "recipe": {"bits": 16}}
    run = whence.Attributor(tmp_path / "run", model=str(tmp_path / "model"), data=[str(data)], settings=settings)
    query = whence.Query(prompt="The harbour was", completion=" built before the town")
    for hit in run.trace([query], k=3).traces[0].proponents:
        assert sum(hit.sites.values()) == pytest.approx(hit.influence, rel=1e-4)
        assert sum(window.influence for window in hit.windows) == pytest.approx(hit.influence, rel=1e-4)
        assert hit.index_influence == pytest.approx(hit.influence, rel=0.01)
        assert bool(hit.experts) == any(site.experts for site in run.sites)
    assert run.coverage.share == 1.0
    assert run.invariance.verdict != "leak"
