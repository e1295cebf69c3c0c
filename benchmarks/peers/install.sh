#!/usr/bin/env bash
# Makes .bench-venv at the root of the repository and installs the peers into it, apart from the project's own
# environment. Running it again repairs or updates it. Ends by importing what the benchmark uses.
#
#   benchmarks/peers/install.sh            the interpreter is $PYTHON, python3 by default
set -euo pipefail

root="$(cd "$(dirname "$0")/../.." && pwd)"
venv="$root/.bench-venv"
requirements="$root/benchmarks/requirements.txt"
lists="$(mktemp -d)"
trap 'rm -rf "$lists"' EXIT

[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"

# One file, two lists: what comes with its dependencies, and the peers and judges, whose own lists of dependencies ask
# for torchvision, torchaudio, bitsandbytes and more. Nothing used here imports them, and they would replace torch.
sed '/^# --no-deps/,$d' "$requirements" > "$lists/deps.txt"
sed '1,/^# --no-deps/d' "$requirements" > "$lists/peers.txt"
"$venv/bin/pip" install --quiet --constraint "$root/constraints.txt" --requirement "$lists/deps.txt"
"$venv/bin/pip" install --quiet --no-deps --requirement "$lists/peers.txt"

"$venv/bin/python" - <<'PYTHON'
import warnings

warnings.simplefilter("ignore")
import bergson, curvlinops, lightning, torch, transformers
from importlib.metadata import version
from kronfluence.analyzer import Analyzer

print(f"kronfluence {version('kronfluence')}, bergson {bergson.__version__}, torch {torch.__version__}, "
      f"transformers {transformers.__version__}, quanda {version('quanda')}, "
      f"curvlinops {version('curvlinops-for-pytorch')} in .bench-venv")
PYTHON
