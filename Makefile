# The two commands: `make demo` aligns a small model in under half an hour, `make test` runs the tests.
# Both create what they need: .venv, the packages of constraints.txt, the embedded models (in ITERALIGN_CACHE).
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# A CPU build of torch where no NVIDIA GPU is seen; TORCH= overrides, e.g. make TORCH=torch==2.13.0
TORCH ?=
# the quick tests run beside each other, a file in one process; those that run models or measure time run alone
WORKERS := -n logical --maxprocesses 4 --dist loadfile
export ITERALIGN_TEST_DATA ?= $(wildcard $(abspath ../shared/data))

.PHONY: demo test quick check install models clean

demo: install models
	$(BIN)/iteralign run configs/demo.yaml

quick: install models
	$(BIN)/iteralign run configs/quick.yaml

test: install models
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -m "not slow" $(WORKERS)
	$(BIN)/python -m pytest -m slow

check: install
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -m "not slow" $(WORKERS)

install: $(VENV)/.done

$(VENV)/.done: pyproject.toml constraints.txt scripts/install.sh
	PYTHON=$(PYTHON) TORCH="$(TORCH)" bash scripts/install.sh $(VENV)
	touch $@

models: install
	$(BIN)/iteralign pull policy oracle hhh

clean:
	rm -rf $(VENV)
