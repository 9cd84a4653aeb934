# Every target runs from a fresh clone: the first one that is asked for makes .venv.
PYTHON ?= python3
BIN := .venv/bin
# The pinned versions keep torch to its CPU build where this project is tested; users are not bound by them.
CONSTRAINTS := .ci/constraints.txt

.PHONY: help demo test test-extended test-all test-newest lint bench bench-compare accuracy scoreboard vectors docs clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 16

.venv/installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@

demo: .venv/installed  ## train a language model with the same loss on every installed backend
	$(BIN)/crossent train

test: .venv/installed  ## every clause on every backend, the package's own tests, the examples in the docs: minutes
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not extended"

test-extended: .venv/installed  ## what test leaves out: every dtype and mode, emulator runs, mutants, kernel variants
	$(BIN)/python -m pytest -n 2 --dist worksteal -m extended

test-all: .venv/installed  ## both
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Nothing is pinned here, and torch, which would bring gigabytes of CUDA, stays out. The newest libraries want a newer
# Python than the oldest supported: the newest there is, on the path or of pyenv. NEWEST_PYTHON= names another.
NEWEST_PYTHON ?= $(shell for v in 3.14 3.13 3.12; do for p in python$$v "$$(pyenv prefix $$v 2>/dev/null)/bin/python"; do \
  "$$p" -c '' 2>/dev/null && echo "$$p" && exit; done; done; echo $(PYTHON))
NEWEST := .venv-newest/bin/python

.venv-newest/installed: pyproject.toml
	$(NEWEST_PYTHON) -m venv --clear .venv-newest
	$(NEWEST) -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager \
	  -e '.[numba,jax,dask,strict,conformance]' 'ml-dtypes' 'pytest-xdist' 'pytest-timeout'
	@touch $@

test-newest: export CROSSENT_REQUIRE_BACKENDS := numpy,jax,dask,array-api-strict
test-newest: .venv-newest/installed  ## some clauses with the newest NumPy, JAX, Dask, array-api-strict and Numba there are
	$(NEWEST) -m pytest -q -n 2 -p no:cacheprovider \
	  conformance --clause V1 --clause R4 --clause A5 --clause S3 \
	  --backend numpy --backend jax --backend dask --backend array-api-strict
	$(NEWEST) -m pytest -q -p no:cacheprovider tests/test_import.py

lint: .venv/installed  ## style, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/basedpyright --pythonpath $(BIN)/python

bench: .venv/installed  ## speed and memory against the peers: tables, docs/performance.md and its plots
	$(BIN)/python -m pytest benchmarks --benchmark-only --json .benchmarks/run.json
	$(BIN)/python -m benchmarks.report .benchmarks/run.json

# What is compared with: any revision. SIZES is rows x vocabulary, separated by commas.
BASE ?= HEAD
SIZES ?= 8x16,8x100,512x50257
PAIRS ?= 7

bench-compare: .venv/installed  ## is this tree slower than revision BASE? pair by pair; SIZES=, PAIRS=
	$(BIN)/python -m benchmarks.compare $(BASE) --sizes $(SIZES) --pairs $(PAIRS)

accuracy: .venv/installed  ## the accuracy tables of docs/accuracy.md, against the 60-digit oracle
	$(BIN)/python -m crossent_conformance.accuracy

.venv/peers: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[dev,peers]'
	@touch $@

scoreboard: .venv/peers  ## other people's cross-entropies against the contract: docs/scoreboard.md
	$(BIN)/python -m crossent_conformance.scoreboard

vectors: .venv/installed  ## inputs and 40-digit results as JSON, for other languages: conformance/vectors
	$(BIN)/python -m crossent_conformance.vectors --write conformance/vectors

.venv/docs: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[dev,docs]'
	@touch $@

# The variable silences a notice that Material for MkDocs, which is maintained until May 2027, has a successor.
docs: .venv/docs  ## the site of docs/, in site/; every warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

clean:  ## remove the environments, the site and caches
	rm -rf .venv .venv-newest .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks site
