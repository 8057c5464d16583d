# `make demo` and `make test` set up what they need in .venv and nowhere else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench outside clean

demo: $(VENV)/installed
	$(BIN)/trampoline verify examples/go

test: $(VENV)/tested
	$(BIN)/python -m pytest -q $(PYTEST_ARGS)

lint: $(VENV)/linted
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/tested
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

outside: $(VENV)/tested
	$(BIN)/python -m tests.outside $(OUTSIDE_ARGS)

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -e .
	touch $@

$(VENV)/tested: $(VENV)/installed
	$(BIN)/pip install -q --disable-pip-version-check -e '.[test]'
	touch $@

$(VENV)/linted: $(VENV)/tested
	$(BIN)/pip install -q --disable-pip-version-check -e '.[test,dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
