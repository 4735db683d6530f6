# One recipe per need. `make help` lists them. Nothing outside this folder is touched.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
PARTS := verify protocol models client server simulation
# People elsewhere who want CPU wheels of torch: make demo TORCH_INDEX=<the PyTorch CPU wheel index>
TORCH_INDEX ?=
DEMO_ARGS ?=
FUZZ_MINUTES ?= 10
export OMP_NUM_THREADS ?= 1
export FLWR_TELEMETRY_ENABLED = 0
export FLWR_DISABLE_UPDATE_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-all merkle-oracle attacks lint types architecture check fix bench fuzz docs clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## Train across four real hospitals on this machine and leave a verified model
	@$(BIN)/solblom demo heart $(DEMO_ARGS)

test: $(VENV)/.installed ## Run the tests
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not slow"

test-all: $(VENV)/.installed ## Run all tests, the slow ones too
	$(BIN)/python -m pytest -n 2 --dist loadgroup

merkle-oracle: $(VENV)/.installed ## Compare every proof of logs up to 256 entries with pymerkle (GPL: an environment of its own)
	$(PYTHON) -m venv .venv-oracle
	.venv-oracle/bin/python -m pip install --quiet --disable-pip-version-check pymerkle==7.0.0
	.venv-oracle/bin/python tests/oracles/pymerkle_tree.py .venv-oracle/merkle.json
	$(BIN)/python -m pytest tests/unit/protocol/test_merkle_oracle.py

attacks: $(VENV)/.installed ## Try every attack of tests/security and write docs/reference/attacks.md
	$(BIN)/python tests/attack_table.py

lint: $(VENV)/.installed ## Style and format
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed ## mypy, strict
	$(BIN)/mypy

architecture: $(VENV)/.installed ## Who may import whom
	$(BIN)/lint-imports

check: lint types architecture test ## What CI runs

fix: $(VENV)/.installed ## Repair style and format where a tool can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed ## Measure every figure that the docs quote (about two hours)
	$(BIN)/python bench/run_all.py

fuzz: $(VENV)/.installed ## Feed broken messages to every parser for FUZZ_MINUTES; findings become tests
	PYTHONPATH=tests $(BIN)/python -m fuzz.campaign --minutes $(FUZZ_MINUTES)

docs: $(VENV)/.installed ## Build the documentation into site/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	$(BIN)/mkdocs build --strict

clean: ## Remove the virtual environment, caches and demo folders
	rm -rf $(VENV) .venv-oracle .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis site solblom-demo*

# torch first and alone: a range that admits a newer release would pull gigabytes of CUDA.
$(VENV)/.installed: constraints.txt requirements-dev.txt $(PARTS:%=%/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "error: Python 3.11 is needed (found: $$($(PYTHON) --version 2>&1)). Try: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 3; }
	@echo "Setting up $(VENV) (once; about two minutes) ..." >&2
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt \
	  $(PARTS:%=-e ./%) -r requirements-dev.txt
	@# pip would compile on one core, other people's tests too, and never these parts. A few files are templates: no Python.
	@$(BIN)/python -m compileall -qq -j 0 -x '/tests/' $(VENV)/lib $(PARTS) || true
	@touch $@
