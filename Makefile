# Everything a user or a developer types. Needs python3 (3.11 or newer) and nothing else; all work is done in .venv.
#
#   PYTHON=python3.12 make test        another interpreter
#   PIP_FLAGS='--extra-index-url URL'  more flags for pip (for instance a CPU-only build of PyTorch)
#   THREADS=4 make demo                threads of one process (tests run two processes of one thread each)

.DEFAULT_GOAL := help
.PHONY: help demo test check bench docs
.DELETE_ON_ERROR:

PYTHON ?= python3
PIP_FLAGS ?=
THREADS ?= 2

VENV := .venv
BIN := $(VENV)/bin
USE := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
DOCS := $(VENV)/.installed-docs
# What an installation depends on; the native kernels are compiled by it.
SOURCES := pyproject.toml constraints.txt setup.py $(wildcard src/whence/scoring/*.c src/whence/scoring/*.h)
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt

help:  ## say what there is
	@sed -n 's/^\([a-z]*\):.*  ## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(USE)  ## train a small model on planted false claims and trace them (under 5 minutes, 2 cores)
	OMP_NUM_THREADS=$(THREADS) $(BIN)/whence demo

test: $(DEV)  ## run all tests, two processes
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

check: $(DEV)  ## lint, formatting, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(USE)  ## cost and agreement beside kronfluence and bergson (minutes; installs them into .bench-venv)
	benchmarks/peers/install.sh
	$(BIN)/python benchmarks/scan_kernels.py
	$(BIN)/python benchmarks/main_job.py

docs: $(DOCS)  ## write the command line's page and the lab's tables anew and build site/
	$(BIN)/python scripts/cli_docs.py
	$(BIN)/python scripts/lab_docs.py
	$(BIN)/python scripts/coverage_docs.py
	$(BIN)/python scripts/recipe_costs.py
	$(BIN)/mkdocs build --strict

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "whence needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(USE): $(SOURCES) | $(BIN)/pip
	$(INSTALL) -e .
	@touch $@

$(DEV): $(SOURCES) | $(BIN)/pip
	$(INSTALL) -e '.[dev]'
	@touch $(USE) $@

$(DOCS): $(SOURCES) | $(BIN)/pip
	$(INSTALL) -e '.[docs]'
	@touch $(USE) $@
