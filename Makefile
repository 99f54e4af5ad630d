# `make quickstart` installs Firstlight and trains a small GPT; `make test` runs the fast tests.
# Needs Python 3.11 or newer with venv. Select an interpreter with PYTHON=python3.12.

PYTHON ?= python3
VENV ?= .venv
CORPUS ?=
OUT ?=

ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif

# Tests run in two processes of one thread each: small tensors gain nothing from more threads.
TEST_JOBS ?= 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-slow test-faults bench bench-gpu docs lint format check clean

help:
	@echo "make quickstart            install, train on Python's own documentation, write runs/quickstart/report.html"
	@echo "make quickstart CORPUS=... the same on your own files, a folder or a named corpus"
	@echo "make test                  run the fast tests"
	@echo "make test-slow             run the slow tests"
	@echo "make test-faults           kill runs and make system calls fail; every run must resume to the same bits"
	@echo "make bench NANOGPT=... PEERS=... TEXT=...   compare with other systems; see docs/benchmarks.md"
	@echo "make bench-gpu NANOGPT=... PEERS=...         the same on a GPU; at most 9 minutes"
	@echo "make lint                  check formatting, style, types and imports"
	@echo "make format                format the code and fix style"
	@echo "make check                 lint and test"
	@echo "make docs                  generate docs/reference"
	@echo "make setup                 install the package and the development tools into $(VENV)"
	@echo "make clean                 remove $(VENV) and caches; runs/ is kept"

# Stamp files mark finished steps, so that nothing is installed twice.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: Firstlight needs Python 3.11 or newer ('$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true))." >&2; \
	  echo "Install it, or select another interpreter: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "error: this Python cannot create virtual environments. On Debian or Ubuntu: apt install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# constraints.txt pins the versions that the tests were run with.
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --quiet --progress-bar off -c constraints.txt

$(VENV)/.base: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing Firstlight and its dependencies into $(VENV) (PyTorch is large; this takes a few minutes) ..."
	$(PIP_INSTALL) -e '.[tensorboard]'
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing Firstlight and its development tools into $(VENV) (PyTorch is large; this takes a few minutes) ..."
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.base

setup: $(VENV)/.dev

quickstart: $(VENV)/.base
	$(BIN)/firstlight quickstart $(CORPUS) $(if $(OUT),--out $(OUT))

test: $(VENV)/.dev
	$(PYTEST) -m "not slow and not faults" --jaxtyping-packages=firstlight.model,beartype.beartype

test-slow: $(VENV)/.dev
	$(PYTEST) -m slow
	HYPOTHESIS_PROFILE=default $(PYTEST) -m "hypothesis and not slow and not faults"

# Kills and failing system calls; prints how many of each. About ten minutes.
test-faults: $(VENV)/.dev
	$(PYTEST) -m faults tests/faults

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.dev
	$(BIN)/python docs/generate_reference.py

# PEERS is an interpreter with the systems that pip installs; NANOGPT and LLMC are checkouts.
bench: $(VENV)/.dev
	$(BIN)/python benchmarks/bench.py $(if $(PEERS),--python $(PEERS)) $(if $(NANOGPT),--nanogpt $(NANOGPT)) \
	  $(if $(LLMC),--llmc $(LLMC)) $(if $(TEXT),--text $(TEXT)) $(BENCH)

bench-gpu: $(VENV)/.dev
	$(BIN)/python benchmarks/bench_gpu.py $(if $(PEERS),--python $(PEERS)) $(if $(NANOGPT),--nanogpt $(NANOGPT)) $(BENCH)

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: lint test

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache src/*.egg-info
