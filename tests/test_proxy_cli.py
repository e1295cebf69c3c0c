"""`whence proxy`: what it prints and leaves, that other commands take it, and its refusals."""

import json
import subprocess
import sys
from html.parser import HTMLParser

import pytest
import torch

from command_line import ASK, hits
from whence.interfaces import ProxyCard
from whence.model import factored, load_proxy
from whence.report import save_proxy_page
from whence.report.proxy_page import proxy_page

SMALL = ("--share", "0.6", "--steps", "4", "--documents", "8", "--batch", "4")


@pytest.fixture(scope="session")
def made(model, data, tmp_path_factory):
    """A proxy made by the command, in a process of its own; its folder, and what was printed."""
    home = tmp_path_factory.mktemp("proxy")
    command = [sys.executable, "-m", "whence", "proxy", "--model", model, "--data", data, "--run", str(home / "run")]
    done = subprocess.run([*command, "--out", str(home / "p"), *SMALL], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return home, done.stdout


def test_what_it_says_and_leaves(made):
    home, printed = made
    for words in ("linear layers in the blocks", "embeddings and head", "100%", "gradient cosine", "KL, nats/token"):
        assert words in printed
    for words in ("decomposed", "aligned", "Weighted error", "the same share", "proxy.html", "--method proxy:model="):
        assert words in " ".join(printed.split())
    card = json.loads((home / "p" / "proxy.json").read_text())
    assert card["settings"]["share"] == 0.6
    assert set(card["settings"]) >= {"steps", "rate", "weight", "temperature", "documents", "batch", "damping"}
    assert [check["stage"] for check in card["checks"]] == ["decomposed", "aligned"]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in (home / "p").iterdir()}
    assert len(factored(load_proxy(home / "p"))) == len(card["ranks"]) > 0
    assert not list((home / "run" / "proxies").rglob("*.safetensors"))


def test_the_same_again_makes_nothing_and_shows_it(made, model, data, whence):
    home, _ = made
    before = (home / "p" / "model.safetensors").stat().st_mtime_ns
    shown = whence("proxy", "--run", home / "run", "--out", home / "p", *SMALL)
    assert (home / "p" / "model.safetensors").stat().st_mtime_ns == before
    assert "gradient cosine" in shown


def test_other_commands_take_it(made, data, whence, tmp_path):
    home, _ = made
    assert "100.00% of" in whence("coverage", "--model", home / "p")
    whence("fit", "--model", home / "p", "--data", data, "--run", tmp_path / "run", "--sample", 1)
    whence("index", "--run", tmp_path / "run")
    whence("trace", "--run", tmp_path / "run", *ASK)
    assert hits(tmp_path / "run")
    whence("trace", "--run", home / "run", "--method", f"proxy:model={home / 'p'}", *ASK)
    assert hits(home / "run")


def test_logits_before_and_after_saving_in_another_process(made, tmp_path):
    home, _ = made
    model = load_proxy(home / "p")
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([[3, 4, 5]])).logits.double().sum().item()
    code = f"""
import torch
from whence.model import load_model
with torch.no_grad():
    found = load_model({str(home / "p")!r}, device="cpu").model(input_ids=torch.tensor([[3, 4, 5]])).logits
print(found.double().sum().item().hex())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == wanted.hex()


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.asked = []

    def handle_starttag(self, tag, attrs):
        self.asked += [value for key, value in attrs if key in ("src", "srcset") or (key == "href" and value[0] != "#")]


def test_the_page(made, tmp_path):
    home, _ = made
    card = ProxyCard.model_validate_json((home / "p" / "proxy.json").read_text())
    text = (home / "p" / "proxy.html").read_text()
    assert text == proxy_page(card)
    page = _Page()
    page.feed(text)
    assert not page.asked
    assert text.count("<svg") >= 1
    assert all(site.name in text for site in card.sites)
    evil = card.model_copy(update={"target": "<script>alert(1)</script>\u202e"})
    shown = save_proxy_page(evil, tmp_path).read_text()
    assert "<script>alert" not in shown
    assert "\u202e" not in shown


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--share", "1.5"), ("--share 1.5", "less than 1")),
        (("--share", "0"), ("--share 0", "greater than 0")),
        (("--share", "0.5", "--rank", "2"), ("share and rank", "give one of them")),
        (("--rank", "0"), ("--rank 0", "greater than or equal to 1")),
        (("--rate", "-1"), ("--rate -1", "greater than 0")),
        (("--temperature", "0"), ("--temperature 0",)),
        (("--share", "0.01", "--steps", "0"), ("--share 0.01 keeps less than rank 1", "give more")),
        (("--rank", "100", "--steps", "0"), ("--rank 100", "no product is smaller")),
    ],
)
def test_refusals(made, refused, tmp_path, options, says):
    home, _ = made
    refused("proxy", "--run", home / "run", "--out", tmp_path / "q", *options, says=says)
    assert not (tmp_path / "q").exists()


def test_a_place_that_is_taken(made, refused, tmp_path):
    home, _ = made
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "notes.txt").write_text("mine")
    refused("proxy", "--run", home / "run", "--out", tmp_path / "q", says=("is there already", "empty or not there"))
    assert (tmp_path / "q" / "notes.txt").read_text() == "mine"
    refused("proxy", "--run", home / "run", "--out", home / "p", "--steps", 3, says=("another model", "other settings"))


def test_a_proxy_that_was_made_on_other_documents(made, model, refused, tmp_path):
    home, _ = made
    (tmp_path / "other.jsonl").write_text('{"text": "rain fell on slate roofs"}\n{"text": "every ship in winter"}\n')
    where = ("--run", tmp_path / "run", "--model", model, "--data", tmp_path / "other.jsonl")
    refused("proxy", *where, "--out", home / "p", *SMALL, says=("of other documents", "another directory"))


def test_a_damaged_proxy(made, refused, tmp_path):
    import shutil

    home, _ = made
    shutil.copytree(home / "p", tmp_path / "p")
    (tmp_path / "p" / "proxy.json").write_text("{}")
    refused("coverage", "--model", tmp_path / "p", says=("proxy.json cannot be used", "make the proxy again"))


def test_a_run_that_attributes_no_linear_layer(model, data, refused, whence, tmp_path):
    where = ("--run", tmp_path / "run", "--model", model, "--data", data)
    whence("fit", *where, "--sites", "lm_head", "--sample", 1)
    refused(
        "proxy", "--run", tmp_path / "run", "--out", tmp_path / "p", says=("no linear layer in its blocks", "--sites")
    )
