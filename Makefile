# make demo: set everything up and run the whole path once. make test: set everything up and run the tests.
# TORCH=cpu (or cu130, ...) chooses the build of torch; PYTHON=python3.12 the interpreter.
PYTHON ?= python3
TORCH ?=
RUN ?= runs/demo
BIN := .venv/bin
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)

export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export UV_TORCH_BACKEND ?= $(TORCH)
ifeq ($(UV_FIND_LINKS),)
unexport UV_FIND_LINKS
endif
ifeq ($(UV_TORCH_BACKEND),)
unexport UV_TORCH_BACKEND
endif

.PHONY: demo test lint types check slow setup clean

setup: .venv/.ready

.uv/bin/uv:
	$(PYTHON) -m pip install --quiet --target .uv uv

.venv/.ready: pyproject.toml constraints.txt $(filter .uv/bin/uv,$(UV))
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
	$(UV) pip install --quiet --python .venv --constraint constraints.txt --group dev --editable .
	touch $@

demo: setup
	$(BIN)/python -m train --preset digits --out $(RUN) --overwrite
	$(BIN)/python -m export $(RUN) --target loihi2
	$(BIN)/python -m sim $(RUN)
	$(BIN)/python -m deploy $(RUN)

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

slow: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

check: lint types test

clean:
	rm -rf .venv .uv
