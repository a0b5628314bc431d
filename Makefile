# `make demo` and `make test` set up everything they need on a machine that has Python and make.
# PYTHON chooses the interpreter, VENV the virtual environment's folder.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint clean
.DELETE_ON_ERROR:

demo: $(STAMP)
	$(BIN)/netlathe run --target x86 --data digits --budget 0.6x

test: $(STAMP)
	$(BIN)/python -m pytest -n logical --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The stamp appears after the last package is in, so an interrupted installation is repeated.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
