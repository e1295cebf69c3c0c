"""The page of recipes: its tables are fresh, its commands exist, and its arithmetic is what the code does."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
import typer
from torch.utils.flop_counter import FlopCounterMode

from conftest import as_loaded, make_runner
from whence.cli.commands import app
from whence.data import batch_from_sequences
from whence.gradients import Recipe, language_examples

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "recipes.md"


@pytest.fixture(scope="module")
def scripts():
    before = list(sys.path)
    sys.path.insert(0, str(ROOT / "scripts"))
    made = {}
    for name in ("published", "model_costs", "recipe_costs"):
        spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
        sys.modules[name] = made[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(made[name])
    yield made
    sys.path[:] = before
    for name in made:
        del sys.modules[name]


def test_the_page_is_fresh(scripts):
    text = PAGE.read_text(encoding="utf-8")
    assert scripts["recipe_costs"].page(text) == text, "run python scripts/recipe_costs.py"


def commands() -> list[list[str]]:
    """Every whence command of the page's code blocks, as words."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line.rstrip("& ")) for line in lines]
    return [each[each.index("whence") + 1 :] for each in words if "whence" in each]


def test_commands_are_typed_as_they_can_be():
    known = typer.main.get_command(app)
    found = commands()
    assert len(found) > 10
    for name, *options in found:
        known.commands[name].make_context(name, list(options))  # raises where an option or a value does not exist


def test_sites_of_the_page_are_sites_of_the_models(scripts):
    costs = scripts["model_costs"]
    names = {"Olmo-3-1025-7B": "OLMo 3 7B", "Olmo-3-7B": "OLMo 3 7B", "Olmo-3-1125-32B": "OLMo 3 32B",
             "Nemotron-3-Nano": "Nemotron 3 Nano 30B-A3B"}  # fmt: skip
    checked = 0
    for words in commands():
        if "--model" not in words:
            continue
        model = words[words.index("--model") + 1]
        patterns = [words[i + 1] for i, word in enumerate(words) if word == "--sites"]
        name = next(known for part, known in names.items() if part in model)
        for pattern in patterns:
            assert costs.cost(costs.Choice(name, "", (pattern,))).attributed > 0
            checked += 1
    assert checked > 6


def test_published_shapes_have_the_published_number_of_parameters(scripts):
    """From the papers and model cards, in billions: total, and active per token where a mixture names them."""
    cost, choice = scripts["model_costs"].cost, scripts["model_costs"].Choice
    totals = {"OLMo 3 7B": 7.3, "OLMo 3 32B": 32.2, "OLMoE 1B-7B": 6.9, "Nemotron 3 Nano 30B-A3B": 31.6,
              "Nemotron 3 Super 120B-A12B": 120.6, "Pythia 1.4B": 1.41, "Pythia 6.9B": 6.86}  # fmt: skip
    for name, billions in totals.items():
        assert cost(choice(name)).parameters / 1e9 == pytest.approx(billions, rel=0.01), name


def small(scripts, kind: str):
    """A tiny model and its cost by the same arithmetic."""
    costs, published = scripts["model_costs"], scripts["published"]
    common = {"vocab_size": 64, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 4, "tie_word_embeddings": False, "pad_token_id": None, "eos_token_id": 2,
              "bos_token_id": 1}  # fmt: skip
    changes = {"llama": {"intermediate_size": 96}, "olmoe": {"intermediate_size": 32, "num_experts": 8,
               "num_experts_per_tok": 2}}[kind]  # fmt: skip
    name = {"llama": "LlamaConfig", "olmoe": "OlmoeConfig"}[kind]
    import transformers

    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**common, **changes)).eval()
    published.PUBLISHED["tiny"] = published.Published(name, {**common, **changes})
    costs.loaded.cache_clear()
    made = costs.cost(costs.Choice("tiny"))
    del published.PUBLISHED["tiny"]
    costs.loaded.cache_clear()
    return model, made


def grouped_flops(rows, matrices, *args, out_shape=None, **kwargs):
    """Every row meets one matrix [I, O]."""
    return 2 * rows[0] * matrices[-2] * matrices[-1]


@pytest.mark.parametrize("kind", ["llama", "olmoe"])
def test_operations_of_reading_factors_are_those_that_run(scripts, kind):
    """4 per active parameter and token: forward, and the backward pass of activations; attention's products apart."""
    model, made = small(scripts, kind)
    loaded = as_loaded(model)
    tokens = torch.randint(0, 64, (2, 32)).numpy()
    everything = torch.ones(32, dtype=torch.bool).numpy()
    examples = language_examples(batch_from_sequences([(row, everything) for row in tokens]), loaded)
    runner = make_runner(loaded)
    mapping = {torch.ops.aten._grouped_mm: grouped_flops}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counted:
        runner.examples(examples, lambda site, uses: None)
    linear = sum(
        flops for op, flops in counted.get_flop_counts()["Global"].items() if "attention" not in str(op).lower()
        and "bmm" not in str(op)
    )  # fmt: skip
    assert linear == pytest.approx(4 * made.active * 2 * 32, rel=0.03)


@pytest.mark.parametrize("kind", ["llama", "olmoe"])
def test_bytes_per_window_are_those_that_are_stored(scripts, kind):
    model, made = small(scripts, kind)
    sites = make_runner(as_loaded(model)).sites
    for recipe in (Recipe(projection="kronecker", coordinates=64), Recipe(projection="none"), Recipe(bits=8)):
        wanted = recipe.resolved(sites).bytes_per_row(sites)
        got = scripts["model_costs"].replace(made, asked=recipe).code_bytes
        assert got == wanted
    assert made.attributed == sum(p.numel() for p in model.parameters())
