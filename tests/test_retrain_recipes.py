"""Reading how a model was trained, with transformers' own ``Trainer`` as the judge."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from retraining import make_task, make_world, weights
from whence.demo import Architecture, Recipe, TrainReport
from whence.demo.train import _training_record
from whence.errors import InputError
from whence.fidelity.recipes import load_training
from whence.fidelity.subsets import whole
from whence.model import Training


def write(folder: Path, content: object, name: str = "training_args.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A world, and what transformers' Trainer left after training on all of it in every step."""
    pytest.importorskip("accelerate")
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    world = make_world(tmp_path_factory.mktemp("trainer"))
    task = make_task(world)
    pieces = [task.corpus.window_tokens(row) for row in range(task.corpus.windows)]
    width = max(len(tokens) for tokens, _ in pieces)

    def padded(tokens: np.ndarray, mask: np.ndarray) -> dict[str, list[int]]:
        room = width - len(tokens)
        labels = np.where(mask, tokens, -100)
        attention = [1] * len(tokens) + [0] * room
        return {
            "input_ids": [*tokens.tolist(), *[0] * room], "labels": [*labels.tolist(), *[-100] * room],
            "attention_mask": attention,
        }  # fmt: skip

    arguments = TrainingArguments(
        output_dir=str(world / "out"), per_device_train_batch_size=5, gradient_accumulation_steps=4, max_steps=6,
        learning_rate=2e-2, weight_decay=0.1, adam_beta2=0.95, lr_scheduler_type="cosine", warmup_steps=2,
        max_grad_norm=0.5, logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(world / "model")
    trainer = Trainer(model=model, args=arguments, train_dataset=[padded(*piece) for piece in pieces])
    trainer.train()
    state = json.dumps({**trainer.state.__dict__, "stateful_callbacks": {}}, default=str)
    model.save_pretrained(world / "theirs")
    return {
        "world": world,
        "arguments": write(world, arguments.to_json_string()),
        "state": write(world, state, "trainer_state.json"),
    }


def test_a_trainer_run_is_repeated_from_its_arguments(trained: dict[str, Path]) -> None:
    training, notes = load_training(trained["arguments"])
    assert training == Training(
        learning_rate=2e-2, weight_decay=0.1, betas=(0.9, 0.95), schedule="cosine", warmup=2, rate_at="start",
        epochs=3, max_steps=6, batch=20, clip=0.5,
    )  # fmt: skip
    assert any("devices" in note for note in notes)
    assert any("seed 42" in note for note in notes)
    assert len(notes) == 2
    task = make_task(trained["world"], training, scratch=False)
    assert len(task.windows.owners) <= 20
    model = task.train(whole(14)[0], 0)
    theirs = make_task(trained["world"], training, scratch=False)
    theirs.start = str(trained["world"] / "theirs")
    moved = np.abs(weights(theirs.loaded.model) - weights(task.loaded.model)).max()
    assert moved > 0.02
    np.testing.assert_allclose(weights(model), weights(theirs.loaded.model), atol=1e-3 * moved)


def test_a_trainer_run_is_recognised_from_its_log(trained: dict[str, Path]) -> None:
    told, _ = load_training(trained["arguments"])
    training, notes = load_training(trained["state"])
    assert (training.schedule, training.max_steps, training.rate_at) == ("cosine", 6, "start")
    ours, theirs = ([t.rate(step, 6) for step in range(6)] for t in (training, told))
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert training.batch == 5
    assert any("AdamW" in note for note in notes)
    assert any("accumulation" in note for note in notes)


def test_a_folder_gives_its_most_telling_file(trained: dict[str, Path]) -> None:
    assert load_training(trained["world"]) == load_training(trained["arguments"])


@pytest.mark.parametrize("shape", ["linear", "constant"])
@pytest.mark.parametrize("warmup", [0, 7])
def test_logged_schedules_are_told_apart(shape: str, warmup: int, tmp_path: Path) -> None:
    truth = Training(learning_rate=3e-4, schedule=shape, warmup=warmup, rate_at="start")
    log = [{"step": s, "learning_rate": truth.rate(s - 1, 50), "loss": 1.0} for s in range(3, 50, 3)]
    state = {"log_history": [*log, {"step": 50, "train_runtime": 3}], "global_step": 50, "max_steps": 50}
    training, _ = load_training(write(tmp_path, state, "trainer_state.json"))
    assert training.schedule == shape
    assert training.batch == 8
    rates = [training.rate(step, 50) for step in range(50)]
    assert rates == pytest.approx([truth.rate(step, 50) for step in range(50)], abs=0.02 * 3e-4)


def test_own_settings_are_read_from_toml_and_json(tmp_path: Path) -> None:
    text = '[training]\noptimizer = "muon"\nmomentum = 0.9\nbetas = [0.8, 0.9]\nepochs = 4\n'
    expected = Training(optimizer="muon", momentum=0.9, betas=(0.8, 0.9), epochs=4)
    assert load_training(write(tmp_path, text, "a.toml")) == (expected, ())
    assert load_training(write(tmp_path, expected.model_dump(mode="json"), "a.json")) == (expected, ())
    assert load_training(write(tmp_path, {"learning_rate": 0.5}, "b.json"))[0].learning_rate == 0.5


def test_the_demos_record_is_read(tmp_path: Path) -> None:
    recipe = Recipe(epochs=2, batch_tokens=2048)
    report = TrainReport(tmp_path, 1000, 300, 9000, 46, 1.0, (), ())
    write(tmp_path, _training_record(report, recipe, Architecture(), 0), "training.json")
    training, notes = load_training(tmp_path)
    assert training == recipe.training().model_copy(update={"batch": 14})
    assert abs(training.steps(300) - report.steps) <= 2
    assert "2048 tokens" in notes[0]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"warmup_ratio": 0.1}, {"warmup": 0.1}),
        ({"warmup_steps": 0.1}, {"warmup": 0.1}),
        ({"warmup_steps": 30, "warmup_ratio": 0.1}, {"warmup": 30}),
        ({"num_train_epochs": 2.5, "max_steps": -1}, {"epochs": 2.5, "max_steps": None}),
        ({"max_grad_norm": 0.0}, {"clip": None}),
        ({"optim": "sgd", "optim_args": "momentum=0.9, nesterov=True"}, {"momentum": 0.9, "nesterov": True}),
        ({"optim": "sgd"}, {"optimizer": "sgd", "momentum": 0.0}),
        ({"optim": "adamw_torch_fused", "adam_epsilon": 1e-6}, {"optimizer": "adamw", "eps": 1e-6}),
        ({"lr_scheduler_type": "constant", "warmup_steps": 5}, {"schedule": "constant", "warmup": 0}),
        ({"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 5}, {"schedule": "constant", "warmup": 5}),
        (
            {"lr_scheduler_type": "cosine_with_min_lr", "learning_rate": 1e-3, "lr_scheduler_kwargs": {"min_lr": 1e-4}},
            {"schedule": "cosine", "final": 0.1},
        ),
        ({"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.2}}, {"final": 0.2}),
        ({"lr_scheduler_type": "polynomial", "learning_rate": 1e-3}, {"schedule": "linear", "final": 1e-4}),
        ({"output_dir": "x"}, {"learning_rate": 5e-5, "epochs": 3, "batch": 8, "schedule": "linear", "clip": 1.0}),
    ],
)  # fmt: skip
def test_arguments_mean_what_they_mean_to_the_trainer(content: dict, expected: dict, tmp_path: Path) -> None:
    training, notes = load_training(write(tmp_path, {"output_dir": "out", **content}))
    for name, value in expected.items():
        assert getattr(training, name) == (pytest.approx(value) if isinstance(value, float) else value)
    assert len(notes) == 1
    assert training.rate_at == "start"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"optim": "adafactor"}, "adafactor is not there"),
        ({"optim": "adamw_bnb_8bit"}, "adamw_bnb_8bit is not there"),
        ({"optim": "sgd", "optim_args": "dampening=0.1"}, "dampening is not done"),
        ({"optim_args": "amsgrad=True"}, "amsgrad"),
        ({"lr_scheduler_type": "inverse_sqrt"}, "inverse_sqrt is not there"),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": 2}}, "num_cycles is not done"),
        ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 2.0}}, "power is not done"),
        ({"bf16": True}, "bfloat16"),
        ({"label_smoothing_factor": 0.1}, "smoothing of 0.1"),
        ({"neftune_noise_alpha": 5}, "noise"),
        ({"dataloader_drop_last": True}, "left out"),
        ({"group_by_length": True}, "like length"),
        ({"train_sampling_strategy": "group_by_length"}, "strategy group_by_length"),
        ({"something_new": 3}, "something_new = 3 is not read"),
        ({"seed": 7}, "seed 7"),
    ],
)
def test_what_is_not_done_is_said(content: dict, said: str, tmp_path: Path) -> None:
    _, notes = load_training(write(tmp_path, {"output_dir": "out", **content}))
    assert len([note for note in notes if said in note]) == 1
    assert len(notes) == 2


def test_what_decides_no_weight_is_not_mentioned(tmp_path: Path) -> None:
    text = "output_dir: out\nlogging_steps: 5\nsave_total_limit: 3\nreport_to: wandb\nbf16: false\nhub_token: x\n"
    assert len(load_training(write(tmp_path, text, "args.yaml"))[1]) == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("training_args.bin", "", "pickle"),
        ("a.toml", "a = ", "not TOML"),
        ("a.json", "{", "not JSON"),
        ("a.json", "[1]", "holds no settings"),
        ("a.json", "{}", "the file is empty"),
        ("a.yaml", "a: [", "not YAML"),
        ("a.json", '{"colour": 3}', "no settings of a training: colour"),
        ("a.json", '{"learning_rate": -1}', "learning_rate: .*got -1"),
        ("a.json", '{"learning_rate": 1, "lerning_rate": 2}', "no settings of a training: lerning_rate"),
        ("a.json", '{"num_train_epochs": "many"}', "no value that can be used"),
        ("a.json", '{"num_train_epochs": -1}', "epochs"),
        ("a.json", '{"log_history": [], "global_step": 5}', "no learning rate"),
        ("a.json", '{"batch_tokens": 5}', "lacks 'steps'"),
    ],
)
def test_files_that_say_nothing_are_refused(name: str, content: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said) as caught:
        load_training(write(tmp_path, content, name))
    assert name in str(caught.value)


def test_places_without_a_recipe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has none of training"):
        load_training(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        load_training(tmp_path / "nothing.json")
    (tmp_path / "latin.json").write_bytes(b"\xe9")
    with pytest.raises(InputError, match="cannot be read as text"):
        load_training(tmp_path / "latin.json")
    torch.manual_seed(0)
    (tmp_path / "training_args.bin").write_bytes(b"")
    with pytest.raises(InputError, match="pickle"):
        load_training(tmp_path)
