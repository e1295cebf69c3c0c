"""What the project says about itself is true: public names, README, docs, licence, size of files."""

import importlib
import json
import pkgutil
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import whence
from whence.projection import signs, uniforms, words

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "whence"
README = (ROOT / "README.md").read_text(encoding="utf-8")
FORMAT = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
PYTHON_FILES = sorted(SOURCE.rglob("*.py"))
COMPILED = {".so", ".pyc", ".pyd"}
LINES, FORGIVEN_LINES = 400, 420
MASK = (1 << 64) - 1


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ------------------------------------------------------------------ the package


def test_the_public_names():
    assert whence.__all__ == [
        "Attributor",
        "Classification",
        "Damping",
        "Query",
        "SquaredError",
        "Trace",
        "TraceResult",
        "WhenceError",
        "__version__",
        "attribute",
    ]
    assert whence.__all__ == sorted(whence.__all__)
    assert dir(whence) == whence.__all__
    for name in whence.__all__:
        assert getattr(whence, name) is not None
    with pytest.raises(AttributeError, match="it has Attributor"):
        _ = whence.Atributor


def test_every_door_lists_what_it_has():
    for info in pkgutil.walk_packages(whence.__path__, "whence."):
        if info.name.split(".")[-1].startswith("_"):
            continue
        module = importlib.import_module(info.name)
        for name in getattr(module, "__all__", ()):
            assert hasattr(module, name), f"{info.name} promises {name}"
        assert (module.__doc__ or "").strip(), f"{info.name} does not say what it does"


def test_importing_and_helping_loads_no_torch():
    heavy = "{name.partition('.')[0] for name in sys.modules} & {'torch', 'transformers', 'pyarrow', 'scipy', 'pandas'}"
    assert run_python(f"import sys, whence; print({heavy})").strip() == "set()"
    for arguments in (["--help"], ["trace", "--help"], ["fit", "--help"]):
        code = f"""
import sys
sys.argv = ["whence", *{arguments!r}]
import whence.cli
try:
    whence.cli.main()
except SystemExit as end:
    assert not end.code, end.code
print("loaded", {heavy})
"""
        shown = run_python(code)
        assert "Usage" in shown
        assert shown.strip().endswith("loaded set()"), shown[-200:]


def test_showing_a_stored_result_loads_no_torch():
    code = "import sys, whence.report, whence.runs, whence.interfaces; print('torch' in sys.modules)"
    assert run_python(code).strip() == "False"


def test_the_version_is_said_once():
    from importlib.metadata import version

    assert version("whence") == whence.__version__


# ------------------------------------------------------------------ the sources


@pytest.mark.filterwarnings("default:.*more than")
@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_source_file_is_short_and_finished(path):
    text = path.read_text(encoding="utf-8")
    count = text.count("\n")
    assert count <= FORGIVEN_LINES, f"{path.name} has {count} lines; take it apart"
    if count > LINES:  # said in the summary, and forgiven while a file is being worked on
        warnings.warn(f"{path.name} has {count} lines, more than {LINES}", stacklevel=1)
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", text)
    assert not re.search(r"^\s*raise NotImplementedError", text, re.MULTILINE)


PICKLES = r"^\s*(import|from) pickle|torch\.save\(|torch\.load\((?!.*weights_only=True)|allow_pickle=True"
"""Other programs' pickles may be read, as long as they can hold nothing but tensors and plain values."""


def test_nothing_is_pickled():
    for path in PYTHON_FILES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(PICKLES, text, re.MULTILINE), path


# ------------------------------------------------------------------ README and docs


def drawn_tree() -> dict[str, str]:
    """Files of the README's tree under src/whence, with their phrases."""
    block = README.split("## The tree", 1)[1].split("src/whence/\n", 1)[1]
    out: dict[str, str] = {}
    folders: list[str] = []
    for line in block.splitlines():
        match = re.match(r"^    ((?:  )+)(\S+)\s{2,}(\S.*)$", line)
        if match is None:
            break
        depth = len(match[1]) // 2 - 1
        folders = folders[:depth]
        if match[2].endswith("/"):
            folders.append(match[2])
        else:
            out["".join(folders) + match[2]] = match[3]
    return out


def test_the_readme_names_every_source_file():
    files = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*")
        if path.is_file() and path.suffix not in COMPILED and not path.name.startswith(".")
    }
    tree = drawn_tree()
    assert files - set(tree) == set(), "not in the README's tree"
    assert set(tree) - files == set(), "in the README's tree, but not there"


def commands() -> list[str]:
    from whence.cli.commands import app

    names = [command.callback.__name__ for command in app.registered_commands if command.callback]
    for group in app.registered_groups:
        inner = group.typer_instance.registered_commands
        names += [f"{group.name} {command.callback.__name__}" for command in inner if command.callback]
    return names


def test_the_readme_has_every_command():
    table = README.split("## Commands", 1)[1].split("\n## ", 1)[0]
    assert sorted(re.findall(r"^\| `whence ([\w ]+)` \|", table, re.MULTILINE)) == sorted(commands())


def test_the_command_line_page_is_fresh():
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "cli_docs.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for name in commands():
        assert f"## whence {name}\n" in page


def test_every_option_that_the_documents_name_exists():
    known = set(re.findall(r"--[a-z][a-z-]+", (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")))
    known |= {"--help", "--strict", "--check", "--repo-type", "--local-dir", "--nproc-per-node"}
    for path in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]:
        for name in re.findall(r"(?<![\w-])--[a-z][a-z-]+", path.read_text(encoding="utf-8")):
            assert name in known, f"{path.name} names {name}"


def test_links_between_documents_lead_somewhere():
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if target.startswith(("http://", "https://")):
                continue
            name, _, anchor = target.partition("#")
            there = path.parent / name if name else path
            assert there.exists(), f"{path.name} → {target}"
            if anchor:
                assert anchor in headings(there), f"{path.name} → {target}"


def headings(path: Path) -> set[str]:
    found = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower())).strip("-") for heading in found}


def test_the_run_settings_page_is_complete():
    from whence.attributor import RunConfig

    section = FORMAT.split("## run.json", 1)[1].split("\n## ", 1)[0]
    for name, field in RunConfig.model_fields.items():
        assert f"`{name}`" in section
        for inner in getattr(field.annotation, "model_fields", ()):
            assert f"`{inner}`" in section, f"{name}.{inner}"


def test_the_licence_is_apache():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert len(text) > 11_000


# ------------------------------------------------------------------ the random generator, by the book


def xxh64(data: bytes, seed: int) -> int:
    """XXH64 from its specification, so that the documented streams do not rest on a library."""
    first, second, third, fourth, fifth = (
        0x9E3779B185EBCA87,
        0xC2B2AE3D27D4EB4F,
        0x165667B19E3779F9,
        0x85EBCA77C2B2AE63,
        0x27D4EB2F165667C5,
    )

    def rotate(x: int, by: int) -> int:
        return ((x << by) | (x >> (64 - by))) & MASK

    def turn(state: int, lane: int) -> int:
        return rotate((state + lane * second) & MASK, 31) * first & MASK

    at, length = 0, len(data)
    state = (seed + fifth) & MASK
    if length >= 32:
        lanes = [(seed + first + second) & MASK, (seed + second) & MASK, seed, (seed - first) & MASK]
        while at + 32 <= length:
            lanes = [turn(s, int.from_bytes(data[at + 8 * i : at + 8 * i + 8], "little")) for i, s in enumerate(lanes)]
            at += 32
        state = sum(rotate(s, by) for s, by in zip(lanes, (1, 7, 12, 18), strict=True)) & MASK
        for lane in lanes:
            state = ((state ^ turn(0, lane)) * first + fourth) & MASK
    state = (state + length) & MASK
    while at + 8 <= length:
        state ^= turn(0, int.from_bytes(data[at : at + 8], "little"))
        state, at = (rotate(state, 27) * first + fourth) & MASK, at + 8
    if at + 4 <= length:
        state ^= int.from_bytes(data[at : at + 4], "little") * first & MASK
        state, at = (rotate(state, 23) * second + third) & MASK, at + 4
    for byte in data[at:]:
        state = rotate(state ^ (byte * fifth & MASK), 11) * first & MASK
    state = (state ^ (state >> 33)) * second & MASK
    state = (state ^ (state >> 29)) * third & MASK
    return state ^ (state >> 32)


def word(key: int, i: int) -> int:
    """Word i of a stream: SplitMix64 of a counter."""
    x = (key + (i + 1) * 0x9E3779B97F4A7C15) & MASK
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


STREAMS = re.findall(r"^\| (\d+) \| `([^`]+)` \| ([0-9a-f]{16}) \| ([0-9a-f ]+) \| `([-+]+)` \|$", FORMAT, re.MULTILINE)
UNIFORMS = re.findall(r"^\| (\d+) \| `([^`]+)` \| (\d+) \| (\d+) \| (0\.\d+) \|$", FORMAT, re.MULTILINE)


def test_the_documents_have_test_vectors():
    assert len(STREAMS) == 4
    assert len(UNIFORMS) == 3


@pytest.mark.parametrize(("seed", "name", "key", "first", "plus_minus"), STREAMS)
def test_documented_streams_are_the_specification_and_the_library(seed, name, key, first, plus_minus):
    assert xxh64(name.encode(), int(seed)) == int(key, 16)
    documented = [int(each, 16) for each in first.split()]
    assert [word(int(key, 16), i) for i in range(len(documented))] == documented
    assert words(int(seed), name, 0, len(documented)).tolist() == documented
    assert "".join("-" if word(int(key, 16), i) >> 63 else "+" for i in range(len(plus_minus))) == plus_minus
    assert "".join("+" if sign > 0 else "-" for sign in signs(int(seed), name, len(plus_minus))) == plus_minus


@pytest.mark.parametrize(("seed", "name", "row", "position", "value"), UNIFORMS)
def test_documented_uniforms_are_the_specification_and_the_library(seed, name, row, position, value):
    stream = word(xxh64(name.encode(), int(seed)), int(row))
    assert (word(stream, int(position)) >> 11) * 2.0**-53 == float(value)
    got = uniforms(int(seed), name, np.array([int(row)]), np.array([int(position)]))
    assert got.tolist() == [float(value)]


def test_streams_of_any_name_follow_the_specification():
    name = "a rather long name, longer than the thirty-two bytes of a stripe: Ünïcödé 模型"
    for length in range(len(name)):
        for seed in (0, 12345):
            part = name[:length]
            assert int(words(seed, part, 5, 1)[0]) == word(xxh64(part.encode(), seed), 5)


# ------------------------------------------------------------------ the machinery


def test_the_makefile_has_its_targets():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test", "check", "bench", "docs", "help"):
        assert re.search(rf"^{target}:.*## \S", text, re.MULTILINE), target
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert ci.index("make test") < ci.index("make check")


def test_constraints_lie_within_the_ranges():
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ranges = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    wanted = {one.name: one.specifier for one in map(Requirement, ranges)}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    for name, pin in pins.items():
        assert name not in wanted or pin in wanted[name], f"{name}=={pin}"
    missing = {one.name for one in map(Requirement, project["dependencies"])} - set(pins)
    assert not missing, json.dumps(sorted(missing))
