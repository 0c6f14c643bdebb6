# `make train` and `make test` do everything on a fresh machine with Python 3.11.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
RUN_DIR ?= runs/digits
export TF_CPP_MIN_LOG_LEVEL ?= 2
export PYTHONPATH := $(CURDIR)

# Two processes of one thread each; a file's tests stay together, for they share what they made.
PYTEST := TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 $(BIN)/python -m pytest -n 2
FUZZ_GRAPHS ?= 2000
MUTANTS ?= 300
MUTATION_SEED ?= 0
FUZZ_VERDICTS ?= 3000
FUZZ_FILES ?= 1000
FUZZ_TEXTS ?= 300
SOAK_MINUTES ?= 120
VNNCOMP ?= $(or $(ROBUSTRA_SHARED),../shared)/vnncomp
VNNCOMP_OUT ?= runs/vnncomp
VNNCOMP_SECONDS ?=
VNNCOMP_FLAGS ?=

.PHONY: train test suite fuzz vnncomp mutate soak bench docs wheel lint style types format clean

train: $(VENV)/.train
	mkdir -p $(dir $(RUN_DIR))
	$(BIN)/python -m train.main --workdir=$(RUN_DIR)
	$(BIN)/python -m eval.main --saved_model=$(RUN_DIR)/f --stages=clean,lp --out=$(RUN_DIR)/eval_f
	$(BIN)/python -m eval.main --saved_model=$(RUN_DIR)/g --stages=clean,lp --out=$(RUN_DIR)/eval_g
	$(BIN)/python -m eval.certify --pair=$(RUN_DIR) --nobox
	@echo "Results: $(RUN_DIR)/eval_f/results.json and $(RUN_DIR)/eval_g/results.json"
	@echo "Curves:  $(BIN)/tensorboard --logdir=$(RUN_DIR)/events"

# Types are checked, by one thread, while the tests begin.
test: style
	@$(MAKE) --no-print-directory -j2 types suite

suite: $(VENV)/.dev
	$(PYTEST) --dist loadfile --no-loadscope-reorder --cov --cov-report=

fuzz: $(VENV)/.dev
	ROBUSTRA_FUZZ_GRAPHS=$(FUZZ_GRAPHS) ROBUSTRA_FUZZ_VERDICTS=$(FUZZ_VERDICTS) \
		ROBUSTRA_FUZZ_FILES=$(FUZZ_FILES) ROBUSTRA_FUZZ_TEXTS=$(FUZZ_TEXTS) \
		$(PYTEST) --dist load tests/test_fuzz.py tests/test_verdicts.py tests/test_vnnlib.py \
		tests/test_onnx_writing.py

vnncomp: $(VENV)/.dev
	mkdir -p $(dir $(VNNCOMP_OUT))
	$(BIN)/python -m eval.verify --instances=$(VNNCOMP) --expected=$(VNNCOMP)/verdicts.csv \
		--out=$(VNNCOMP_OUT) --workers=2 $(if $(VNNCOMP_SECONDS),--timeout=$(VNNCOMP_SECONDS)) \
		$(VNNCOMP_FLAGS)

mutate: $(VENV)/.dev
	$(BIN)/python -m mutation.main --count=$(MUTANTS) --seed=$(MUTATION_SEED)

soak: $(VENV)/.dev
	$(BIN)/python -m benchmarks.soak --minutes=$(SOAK_MINUTES)

lint: style types

style: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/pyright

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.train
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.step --inner=interval
	$(BIN)/python -m benchmarks.lp
	$(BIN)/python -m benchmarks.radius
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.scaling

docs: $(VENV)/.docs
	$(BIN)/sphinx-build -E -W --keep-going -q -b html docs docs/_build
	@echo "Pages: docs/_build/index.html"

wheel: $(VENV)/.dev
	$(BIN)/python -m build --no-isolation --outdir dist .

clean:
	rm -rf $(VENV) dist docs/_build .coverage .pytest_cache .hypothesis .ruff_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.dev: requirements-dev.txt requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@ $(VENV)/.train

$(VENV)/.docs: requirements-docs.txt requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	touch $@ $(VENV)/.train
