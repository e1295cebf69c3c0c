"""Checkpoints: a real Trainer's and our own, read back to the parameters they belong to; runs opened at them."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from checkpoint_world import RATES, made_up, make_checkpoints
from conftest import causal_lm, save_model
from method_world import make_place, open_run
from test_capture import expected
from whence.attributor import (
    Attributor,
    at_checkpoint,
    optimizer_moments,
    per_document,
    rates_between,
    read_checkpoints,
    run_steps,
)
from whence.attributor.steps import CorpusStep
from whence.errors import InputError, ModelError
from whence.fidelity import LanguageTask
from whence.model import StoredState, Training, evenly, keep_states, optimise, optimizer_tensors, write_state

KINDS = {
    "gpt2": {},  # Conv1D [8, 8] of attention's output; head and embedding tied
    "llama": {"num_key_value_heads": 2},  # four square matrices in each layer
    "qwen3moe": {},
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    made = {}

    def of(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            owner = open_run(make_place(folder, kind, **KINDS[kind]), folder / "run")
            run_steps([CorpusStep(owner)])
            made[kind] = (folder, owner)
        return made[kind]

    return of


def blocks_of(model, sites, values):
    """Tensors by parameter name as blocks of sites, by the tests' own rules."""
    stacked = {name: value[None] for name, value in values.items()}
    return {site.name: expected(model, site, stacked)[0] for site in sites}


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].shape == value.shape, name
        assert torch.equal(found[name], value), name


# ------------------------------------------------------------------ transformers' Trainer


def train_with_trainer(place, out, **changes):
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    rates = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, optimizer=None, **_):
            rates.append(optimizer.param_groups[0]["lr"])

    model = AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(3, 20, (7,), generator=generator).tolist() for _ in range(8)]
    data = [{"input_ids": row, "labels": row} for row in rows]
    settings = {
        "max_steps": 6, "save_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 2, "learning_rate": 0.01,
        "weight_decay": 0.1, "warmup_steps": 3, "adam_beta2": 0.95, "report_to": [], "use_cpu": True,
        "disable_tqdm": True, "dataloader_pin_memory": False, **changes,
    }  # fmt: skip
    trainer = Trainer(
        model=model, args=TrainingArguments(str(out), **settings), train_dataset=data, callbacks=[Watch()]
    )
    trainer.train()
    states = {name: trainer.optimizer.state[p] for name, p in model.named_parameters()}
    return model, states, rates


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_real_trainers_moments_belong_to_their_parameters(places, kind, tmp_path):
    place, owner = places(kind)
    model, states, rates = train_with_trainer(place, tmp_path)
    found = read_checkpoints([tmp_path / "checkpoint-*"])
    assert [each.step for each in found] == [2, 4, 6]
    last = found[-1]
    assert (last.betas, last.weight_decay, last.reduction, last.momentum) == ((0.9, 0.95), 0.1, "tokens", 0.0)
    assert [each.rate_sum for each in found] == pytest.approx([sum(rates[:count]) for count in (2, 4, 6)])
    assert found[0].learning_rate == pytest.approx(rates[2])
    moments = optimizer_moments(last, owner)
    same(moments.mean, blocks_of(model, owner.sites, {name: each["exp_avg"] for name, each in states.items()}))
    same(moments.square, blocks_of(model, owner.sites, {name: each["exp_avg_sq"] for name, each in states.items()}))
    at = at_checkpoint(owner, last)
    weights = {name: p.detach().double() for name, p in model.named_parameters()}
    for name, p in at.loaded.model.named_parameters():
        assert torch.equal(p.detach(), weights[name])


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_without_log_or_optimizer(places, tmp_path):
    place, owner = places("llama")
    train_with_trainer(place, tmp_path, logging_steps=100, max_steps=2, save_only_model=True)
    with pytest.raises(InputError, match=r"no learning rate in its log.*checkpoint\.json"):
        read_checkpoints([tmp_path / "checkpoint-2"])
    (tmp_path / "checkpoint-2" / "checkpoint.json").write_text('{"step": 2, "learning_rate": 0.5}')
    (found,) = read_checkpoints([tmp_path / "checkpoint-2"])
    assert (found.learning_rate, found.rate_sum, found.optimizer) == (0.5, 1.0, None)
    with pytest.raises(InputError, match="no state of its optimizer"):
        optimizer_moments(found, owner)


def trainers_files(folder, model, groups, state=None, log=((1, 0.1), (3, 0.3))):
    """A folder as the Trainer leaves it, its parameters numbered by groups of names."""
    model.save_pretrained(folder)
    history = [{"step": step, "learning_rate": rate} for step, rate in log]
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 4, "log_history": history}))
    numbers = iter(range(1000))
    numbered = [[(next(numbers), name) for name in names] for names in groups]
    parameters = dict(model.named_parameters())
    made = {
        number: {"step": torch.tensor(4.0), "exp_avg": torch.full_like(parameters[name], number),
                 "exp_avg_sq": torch.full_like(parameters[name], number + 0.5)}
        for names in numbered for number, name in names
    }  # fmt: skip
    kept = [
        {"params": [number for number, _ in names], "lr": 0.25, "betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.0}
        for names in numbered
    ]
    torch.save({"state": made if state is None else state, "param_groups": kept}, folder / "optimizer.pt")
    return made


def test_other_orders_of_groups(places, tmp_path):
    """One group; and transformers 4's, which found norms by class alone; rates between logged steps run in a line."""
    _, owner = places("llama")
    model = owner.loaded.model
    names = [name for name, _ in model.named_parameters()]
    made = trainers_files(tmp_path / "one", model, [names])
    (found,) = read_checkpoints([tmp_path / "one"])
    assert found.rate_sum == pytest.approx(0.1 + 0.2 + 0.3 + 0.3)
    assert (found.learning_rate, found.eps) == (0.25, 1e-6)
    wanted = {name: made[number]["exp_avg"] for number, name in enumerate(names)}
    same(optimizer_moments(found, owner).mean, blocks_of(model, owner.sites, wanted))
    split = [[n for n in names if "norm" not in n], [n for n in names if "norm" in n]]
    made = trainers_files(tmp_path / "two", model, split)
    wanted = {name: made[number]["exp_avg"] for number, name in enumerate([*split[0], *split[1]])}
    same(
        optimizer_moments(read_checkpoints([tmp_path / "two"])[0], owner).mean,
        blocks_of(model, owner.sites, wanted),
    )


def test_what_does_not_fit_is_refused(places, tmp_path):
    _, owner = places("llama")
    model = owner.loaded.model
    names = [name for name, _ in model.named_parameters()]
    trainers_files(tmp_path / "reversed", model, [names[::-1]])
    with pytest.raises(InputError, match=r"no order in which .*fits their shapes"):
        optimizer_moments(read_checkpoints([tmp_path / "reversed"])[0], owner)
    trainers_files(tmp_path / "few", model, [names[:-1]])
    with pytest.raises(InputError, match="no order in which"):
        optimizer_moments(read_checkpoints([tmp_path / "few"])[0], owner)
    trainers_files(tmp_path / "sgd", model, [names], {0: {"momentum_buffer": torch.zeros(2)}})
    with pytest.raises(InputError, match="holds momentum_buffer of each parameter, not Adam's"):
        optimizer_moments(read_checkpoints([tmp_path / "sgd"])[0], owner)


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_nothing_is_unpickled(places, tmp_path, capsys):
    _, owner = places("llama")
    trainers_files(tmp_path / "evil", owner.loaded.model, [[]], {0: {"exp_avg": Evil()}})
    with pytest.raises(InputError, match="cannot be read as plain tensors"):
        read_checkpoints([tmp_path / "evil"])
    assert "run" not in capsys.readouterr().out


# ------------------------------------------------------------------ our own


@pytest.mark.parametrize("kind", KINDS)
def test_own_moments_as_blocks(places, kind):
    """Transposes, bias columns, tied weights, norms, stacks of experts."""
    place, owner = places(kind)
    found = make_checkpoints(place)
    assert [each.step for each in found] == list(RATES)
    kept = load_file(found[1].optimizer)
    moments = optimizer_moments(found[1], owner)
    for prefix, blocks in (("exp_avg:", moments.mean), ("exp_avg_sq:", moments.square)):
        values = {name.removeprefix(prefix): value for name, value in kept.items() if name.startswith(prefix)}
        same(blocks, blocks_of(owner.loaded.model, owner.sites, values))


def little_training(**settings):
    common = {"learning_rate": 0.01, "epochs": 2, "batch": 5, "dtype": "float64", "schedule": "linear", "clip": 1.0}
    return Training(**common | settings)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_training_is_the_same_with_checkpoints(places, optimizer, tmp_path):
    place, owner = places("llama")
    training = little_training(optimizer=optimizer, **({"momentum": 0.9} if optimizer == "sgd" else {}))
    task = LanguageTask(owner.run.corpus, place / "model", training, [], device="cpu")
    kept = np.ones(task.documents, dtype=bool)
    steps = task.steps(kept)
    plain = task.fit(kept, 0)
    seen = task.fit(kept, 0, observer=keep_states(tmp_path, evenly(steps, 3)))
    assert plain.losses == seen.losses
    for one, other in zip(plain.model.parameters(), seen.model.parameters(), strict=True):
        assert torch.equal(one, other)
    found = read_checkpoints([tmp_path / "*"])
    assert [each.step for each in found] == list(evenly(steps, 3))
    rates = [training.rate(step, steps) for step in range(steps)]
    assert [each.rate_sum for each in found] == pytest.approx([sum(rates[: each.step]) for each in found])
    assert found[0].learning_rate == rates[found[0].step]
    last = at_checkpoint(owner, found[-1]).loaded.model
    for one, other in zip(last.parameters(), seen.model.parameters(), strict=True):
        assert torch.equal(one, other)
    kinds = {key.partition(":")[0] for key in load_file(found[-1].optimizer)}
    if optimizer == "sgd":
        assert kinds == {"momentum"}
        assert found[-1].momentum == 0.9
    elif optimizer == "muon":
        assert kinds == {"momentum", "exp_avg", "exp_avg_sq"}
    else:
        assert kinds == {"exp_avg", "exp_avg_sq"}
        assert optimizer_moments(found[-1], owner).mean
        return
    with pytest.raises(InputError, match=r"no moments of Adam for \d+ of \d+ sites"):
        optimizer_moments(found[-1], owner)


def test_optimizers_are_kept_by_name():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    seen = []
    optimise(
        model,
        [[torch.ones(2, 3)]] * 2,
        lambda model, batch: model(batch).square().sum(),
        2,
        Training(optimizer="adamw"),
        observer=seen.append,
    )
    assert [(each.step, each.rate_sum) for each in seen] == [(1, 1e-3), (2, 2e-3)]
    states = seen[-1].optimizers[0].state
    wanted = {f"exp_avg:{name}": states[p]["exp_avg"] for name, p in model.named_parameters()}
    found = optimizer_tensors(model, seen[-1].optimizers)
    assert {key for key in found if key.startswith("exp_avg:")} == set(wanted)
    assert all(torch.equal(found[key], value) for key, value in wanted.items())


def test_lbfgs_has_no_checkpoints():
    with pytest.raises(InputError, match="lbfgs takes no steps at a rate"):
        optimise(nn.Linear(2, 1), [], lambda *_: torch.zeros(()), 1, Training(optimizer="lbfgs"), observer=print)


def test_rates_and_units(places):
    place, owner = places("llama")
    found = make_checkpoints(place)
    assert rates_between(found) == pytest.approx([0.05, 0.06, 0.03])
    assert per_document(found[0], owner.corpus) == owner.corpus.documents / owner.corpus.targets


def test_momentum_and_means_over_documents(places, tmp_path):
    _, owner = places("llama")
    for step in (2, 4):
        state = StoredState(step=step, learning_rate=0.1, momentum=0.5, reduction="documents")
        write_state(tmp_path / f"{step}", owner.loaded.model, state, {})
    found = read_checkpoints([tmp_path / "4", tmp_path / "2"])
    assert rates_between(found) == pytest.approx([0.4, 0.4])
    assert per_document(found[0], owner.corpus) == owner.corpus.documents / owner.corpus.windows


# ------------------------------------------------------------------ what is missing


def test_errors_say_what_is_missing(places, tmp_path):
    _, owner = places("llama")
    with pytest.raises(InputError, match="matches no folder"):
        read_checkpoints([tmp_path / "none-*"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"has no config\.json"):
        read_checkpoints([tmp_path / "empty"])
    (tmp_path / "empty" / "config.json").write_text("{}")
    (tmp_path / "empty" / "optimizer.safetensors").write_text("")
    with pytest.raises(InputError, match=r"has no weights .*DeepSpeed"):
        read_checkpoints([tmp_path / "empty"])
    owner.loaded.model.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match=r"neither checkpoint\.json nor trainer_state\.json"):
        read_checkpoints([tmp_path / "model"])
    (tmp_path / "model" / "checkpoint.json").write_text('{"step": -1, "rate": 1}')
    with pytest.raises(InputError, match=r"(?s)step: .*learning_rate: .*rate: "):
        read_checkpoints([tmp_path / "model"])
    for name in "ab":
        write_state(tmp_path / name, owner.loaded.model, StoredState(step=3, learning_rate=1), {})
    with pytest.raises(InputError, match="both of step 3"):
        read_checkpoints([tmp_path / "[ab]"])


def test_steps_are_numbers(places, tmp_path):
    _, owner = places("llama")
    for step in (100, 20, 3):
        write_state(tmp_path / f"checkpoint-{step}", owner.loaded.model, StoredState(step=step, learning_rate=1), {})
    (tmp_path / "checkpoint-notes.txt").write_text("")
    assert [each.step for each in read_checkpoints([f"{tmp_path}/checkpoint-*"])] == [3, 20, 100]


def test_moments_of_another_shape(places, tmp_path):
    _, owner = places("llama")
    model = owner.loaded.model
    tensors = made_up(causal_lm("llama", vocab_size=owner.loaded.vocabulary, num_key_value_heads=2), 0)
    name = "exp_avg:model.embed_tokens.weight"
    write_state(
        tmp_path / "x", model, StoredState(step=1, learning_rate=1), tensors | {name: tensors[name][:-1].clone()}
    )
    with pytest.raises(InputError, match=r"exp_avg of model\.embed_tokens\.weight as \(.*belongs to another model"):
        optimizer_moments(read_checkpoints([tmp_path / "x"])[0], owner)


# ------------------------------------------------------------------ runs at checkpoints


def test_a_run_at_a_checkpoint(places):
    place, owner = places("gpt2")
    first, _, last = make_checkpoints(place)
    before = {name: p.clone() for name, p in owner.loaded.model.named_parameters()}
    at, again, other = (at_checkpoint(owner, each) for each in (first, first, last))
    assert at.run.path == again.run.path != other.run.path
    assert at.run.path.parent == owner.run.path / "checkpoints"
    assert at.sites == owner.sites
    assert at.corpus.fingerprint == owner.corpus.fingerprint
    assert at.corpus.folder.resolve() == owner.run.corpus.resolve()
    assert not torch.equal(at.loaded.model.transformer.wte.weight, other.loaded.model.transformer.wte.weight)
    assert all(torch.equal(p, before[name]) for name, p in owner.loaded.model.named_parameters())
    at.fit()
    assert (at.run.curvature / "basis" / "done.json").is_file()
    assert not (owner.run.curvature / "basis").exists()
    assert not (other.run.curvature / "basis").exists()


def test_another_architecture_is_refused(places, tmp_path):
    _, owner = places("llama")
    save_model(tmp_path / "wide", causal_lm("llama", vocab_size=owner.loaded.vocabulary, num_hidden_layers=1))
    (tmp_path / "wide" / "checkpoint.json").write_text('{"step": 1, "learning_rate": 1}')
    (found,) = read_checkpoints([tmp_path / "wide"])
    with pytest.raises(ModelError, match=re.escape("another architecture than the run's LlamaForCausalLM")):
        at_checkpoint(owner, found)


def test_adapters_at_checkpoints(places, tmp_path):
    """A checkpoint of an adapter is that adapter on the run's base; moments are those of its parameters."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    place, _ = places("llama")
    base = AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float64)
    settings = peft.LoraConfig(r=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = peft.get_peft_model(base, settings)
    model.save_pretrained(tmp_path / "adapter")
    tensors = {key: value for key, value in made_up(model, 0).items() if "lora_" in key}
    write_state(tmp_path / "checkpoint-1", model, StoredState(step=1, learning_rate=0.1), tensors)
    owner = Attributor(
        tmp_path / "run",
        model=str(place / "model"),
        data=[str(place / "corpus.jsonl")],
        settings={"model": {"adapter": [str(tmp_path / "adapter")], "dtype": "float64"}, "corpus": {"context": 9}},
        device="cpu",
    )
    run_steps([CorpusStep(owner)])
    (found,) = read_checkpoints([tmp_path / "checkpoint-*"])
    at = at_checkpoint(owner, found)
    weights = dict(model.named_parameters())
    changed = 0
    for name, p in at.loaded.model.named_parameters():
        if "lora_" in name:
            assert torch.equal(p.detach(), weights[name].detach()), name
            changed += not torch.equal(p, owner.loaded.model.get_parameter(name))
    assert changed == 8
    values = {key.partition(":")[2]: value for key, value in tensors.items() if key.startswith("exp_avg:")}
    same(optimizer_moments(found, owner).mean, blocks_of(owner.loaded.model, owner.sites, values))
    with pytest.raises(ModelError, match="is an adapter, and the run has 0 of them"):
        at_checkpoint(places("llama")[1], found)
