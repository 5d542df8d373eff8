# Every target sets up what it needs, and is fast when nothing changed.
#   make run    the demo: a sandbox, a web app in it, a preview URL
#   make test   the whole suite            make lint    ruff and mypy
#   make bench  the figures of docs/performance.md
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: run test lint bench setup clean
.DEFAULT_GOAL := help

.PHONY: help
help:
	@sed -n '2,4p' Makefile | cut -c3-

setup: $(READY)

# pip knows dependency groups from 25.1 on; the pip that Python 3.11 ships does not.
$(READY): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) (once; again when pyproject.toml changes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	@touch $(READY)

run: $(READY)
	@$(BIN)/portico demo

test: $(READY)
	@$(BIN)/python -m pytest $(ARGS)

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(READY)
	@$(BIN)/python -m bench $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
