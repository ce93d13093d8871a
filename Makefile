# make run: a first sweep on this machine.  make test: the tests.  Both set up all they need; only Python 3.11+ and make must be here.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Another build of torch (CUDA, ROCm, XPU): install it into $(VENV) first, or set TORCH, e.g. TORCH="torch --index-url URL".
TORCH ?= torch==2.13.0

# Test processes at once.
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup run test test-slow test-workloads test-data test-cluster test-cluster-slow lint format docs ui clean

help: ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/' | column -t -s ':'

setup: $(BIN)/.ready ## the virtual environment

$(BIN)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,diffusion,graphs,lora]'
	touch $@

run: setup ## a sweep of two benchmarks on this machine's own hardware, at a size that fits it
	$(BIN)/python run.py -m benchmark=llama,resnet hardware=auto
	@echo
	@echo "Compare the runs in a browser:  make ui"

ui: setup ## the MLflow UI on the results, at a local address
	$(BIN)/python -m fourfold ui

test: setup ## the quick tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test-slow: setup ## the tests that take minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m 'slow and not cluster'

test-workloads: setup ## of the tests that take minutes, those of every workload: its smoke size trained, its parameters and FLOP
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m 'slow and not cluster' tests/benchmarks tests/measure

test-data: setup ## the tests on real data sets in FOURFOLD_DATA
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'data and not cluster'

test-cluster: setup ## the tests on a real Slurm, which they start and stop themselves
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'cluster and not slow' tests/cluster

test-cluster-slow: setup ## a sweep on a real Slurm that everything happens to
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'cluster and slow' tests/cluster

lint: setup ## ruff and mypy
	$(BIN)/ruff check src tests benchmarks run.py
	$(BIN)/ruff format --check src tests benchmarks run.py
	$(BIN)/mypy

format: setup ## let ruff rewrite
	$(BIN)/ruff format src tests benchmarks run.py
	$(BIN)/ruff check --fix src tests benchmarks run.py

docs: setup ## the pages and pictures that are made from the configurations; full counts: python docs/benchmarks.py
	$(BIN)/python docs/methods.py
	$(BIN)/python docs/hardware.py
	$(BIN)/python -m fourfold tree --svg > docs/images/settings.svg
	$(BIN)/python docs/benchmarks.py --quick

clean: ## removes the environment and caches; results in outputs/ stay
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
