"""Two processes of torchrun that share a model give what one process gives: FSDP2, tensor parallel, adapters."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import whence
from conftest import WORD_COUNT, causal_lm, rows, save_model, write_jsonl
from parallel_worker import gradients
from whence.errors import InputError
from whence.model import Placement, load_model
from zoo import ZOO

HERE = Path(__file__).parent
FSDP = [
    ("llama", "fsdp", None, False),
    ("llama", "fsdp", None, True),
    ("llama", "fsdp", "lora", False),
    ("olmo_hybrid", "fsdp", None, False),
    ("gpt2", "fsdp", None, False),
    ("olmoe", "fsdp", None, False),
]
TENSOR = [("llama", "tensor", None, False), ("olmo2", "tensor", None, False), ("qwen3", "tensor", None, True)]
CASES = FSDP + TENSOR


def torchrun(*command, cwd: Path) -> subprocess.CompletedProcess:
    places = [str(HERE), str(Path(whence.__file__).parents[1])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(places)}
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*start, *map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=240
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("shared")
    for name in sorted({case[0] for case in CASES}):
        model = ZOO[name](torch.float32)
        model.save_pretrained(folder / name)
        loaded = load_model(str(folder / name))
        torch.save(gradients(loaded)[0], folder / f"{name}.pt")
    adapted = get_peft_model(
        load_model(str(folder / "llama")).model,
        LoraConfig(r=3, target_modules=["q_proj", "down_proj"], init_lora_weights=False),
    )
    adapted.save_pretrained(folder / "lora")
    torch.save(gradients(load_model(str(folder / "llama"), adapter=str(folder / "lora")))[0], folder / "lora.pt")
    ran = torchrun(HERE / "parallel_worker.py", folder, json.dumps(CASES), cwd=folder)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(str(each) for each in case if each))
def test_gradients_are_those_of_one_process(results, case):
    got = results["/".join(map(str, case))]
    assert got["error"] <= (1e-6 if case[1] == "fsdp" else 1e-5)
    # what a mixer uses without a layer is read in one process only, and reported
    assert all("linear_attn" in name for name in got["missing"])
    assert bool(got["missing"]) == (case[0] == "olmo_hybrid")


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(str(each) for each in case if each))
def test_each_process_holds_half(results, case):
    assert 0.45 < results["/".join(map(str, case))]["held"] < 0.6


def test_a_second_model_is_refused(results):
    assert all("without torchrun" in each["second"] for each in results.values())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("traced")
    settings = {"vocab_size": WORD_COUNT, "num_key_value_heads": 2}
    save_model(folder / "llama", causal_lm("llama", **settings), torch.float32)
    save_model(folder / "gpt2", causal_lm("gpt2", vocab_size=WORD_COUNT), torch.float32)
    write_jsonl(folder / "corpus.jsonl", rows())
    alone = whence.Attributor(
        folder / "alone", model=str(folder / "llama"), data=[str(folder / "corpus.jsonl")],
        settings={"model": {"min_coverage": 0.5}},
    )  # fmt: skip
    alone.index()
    return folder, alone


ASK = whence.Query(prompt="ask keeper of", completion=" lighthouse he knows every ship")


@pytest.mark.parametrize("how", ["fsdp", "tensor"])
def test_a_trace_is_that_of_one_process(corpus, how):
    folder, alone = corpus
    ran = torchrun(
        "-m", "--", "whence", "trace", "--run", how, "--model", "llama", "--data", "corpus.jsonl", "--prompt",
        ASK.prompt, "--completion", ASK.completion, "--parallel", how, "--min-coverage", "0.5", "--out", f"{how}-trace",
        cwd=folder,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    for site in alone.sites:
        file = f"curvature/eigenvalues/{site.name}.safetensors"
        one, two = (load_file(folder / run / file)["eigenvalues"] for run in ("alone", how))
        error = (one - two).norm() / one.norm()
        assert error < (1e-6 if how == "fsdp" else 1e-3)  # an eigenbasis turns where eigenvalues are close
    name = alone.index_names()[0]
    codes = [np.load(next((folder / run / "index" / name).glob("*/codes.npy"))) for run in ("alone", how)]
    assert np.unpackbits(codes[0] ^ codes[1]).mean() < (1e-9 if how == "fsdp" else 1e-2)
    wanted = {hit.id: hit.influence for hit in alone.trace([ASK]).traces[0].proponents}
    trace = json.loads((folder / f"{how}-trace" / "result.json").read_text())["traces"][0]
    got = {hit["id"]: hit["influence"] for hit in trace["proponents"]}
    assert list(got) == list(wanted)
    np.testing.assert_allclose(list(got.values()), list(wanted.values()), rtol=1e-6 if how == "fsdp" else 1e-3)


def test_a_failure_ends_all_processes(corpus):
    folder, _ = corpus
    ran = torchrun(
        "-m", "--", "whence", "fit", "--run", "fails", "--model", "gpt2", "--data", "corpus.jsonl", "--parallel",
        "tensor", cwd=folder,
    )  # fmt: skip
    assert ran.returncode != 0
    assert "--parallel fsdp shares any model" in " ".join(ran.stderr.split())
    assert not (folder / "fails" / "run.json").exists()


SCRIPT = """
from parallel_worker import held
from whence.launch import follow_leader
from whence.model import Placement, load_model
if not follow_leader():
    loaded = load_model("llama", placement=Placement(parallel="fsdp"))
    print("held", held(loaded.model))
"""


def test_a_script_needs_no_farewell(corpus):
    folder, _ = corpus
    (folder / "script.py").write_text(SCRIPT)
    ran = torchrun("script.py", cwd=folder)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "held 0.5" in ran.stdout
    assert "terminate called" not in ran.stderr


def test_sharing_needs_torchrun(corpus):
    with pytest.raises(InputError, match="torchrun"):
        load_model(str(corpus[0] / "llama"), placement=Placement(parallel="fsdp"))


@pytest.mark.parametrize("settings", [{"parallel": "pipeline"}, {"device_map": "everywhere"}])
def test_unknown_placements(settings):
    with pytest.raises(InputError, match="takes"):
        Placement(**settings)
