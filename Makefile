# Firstlight: `make quickstart` trains a GPT on a text that every Python has; `make test` runs the fast suite.
# Needs Python 3.11 or newer with venv, and nothing else. Choose another one with PYTHON=python3.12.

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
.PHONY: help setup quickstart test test-slow bench bench-gpu lint format check clean

help:
	@echo "make quickstart            train on a text that every Python has; report in runs/quickstart/report.html"
	@echo "make quickstart CORPUS=... the same on your own files, folder or a named corpus"
	@echo "make test                  the fast suite"
	@echo "make test-slow             the tests that it leaves out"
	@echo "make bench NANOGPT=... PEERS=... TEXT=...   Firstlight beside its peers; see docs/benchmarks.md"
	@echo "make bench-gpu NANOGPT=... PEERS=...         the same on a GPU, in 9 minutes at most"
	@echo "make lint | format | check style and types; rewrite; lint and test"
	@echo "make setup                 install everything for development into $(VENV)"
	@echo "make clean                 remove $(VENV) and caches; runs/ stays"

# A stamp stands for a finished step, so that nothing is installed twice.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: Firstlight needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." >&2; \
	  echo "Install one, or name it: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "error: this Python cannot make virtual environments. On Debian or Ubuntu: apt install python3-venv" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Pip reads constraints.txt, so versions are those that the suite was run with.
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --quiet --progress-bar off -c constraints.txt

$(VENV)/.base: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing Firstlight and what it needs into $(VENV) (torch is large; a few minutes) ..."
	$(PIP_INSTALL) -e '.[tensorboard]'
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml constraints.txt
	@echo "Installing Firstlight and its development tools into $(VENV) (torch is large; a few minutes) ..."
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.base

setup: $(VENV)/.dev

quickstart: $(VENV)/.base
	$(BIN)/firstlight quickstart $(CORPUS) $(if $(OUT),--out $(OUT))

test: $(VENV)/.dev
	$(PYTEST) -m "not slow" --jaxtyping-packages=firstlight.model,beartype.beartype

test-slow: $(VENV)/.dev
	$(PYTEST) -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Peers that pip installs live in an interpreter of their own; nanoGPT is a checkout.
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
