# Every target sets up what it needs, and is fast when nothing changed.
#   make run    the demo: a sandbox, a web app in it, a preview URL
#   make test   the whole suite            make lint    ruff and mypy
#   make bench  the figures of docs/performance.md, and a picture
#   make bench-peers    the same traffic through Portico, nginx, HAProxy, Caddy, node's proxies and workerd
#   make compiled       HTTP's readers and writers compiled (a third less CPU a request); make test-compiled tests them
#   make fuzz           try to break every reader of what comes from outside; ARGS="request_head --seconds 600"
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
RUNS   := $(VENV)/.runs
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: run test lint bench bench-peers compiled test-compiled fuzz setup clean
.DEFAULT_GOAL := help

.PHONY: help
help:
	@sed -n '2,7p' Makefile | cut -c3-

setup: $(READY)

# What `make run` needs, and nothing more: a newcomer should not wait for a linter.
$(RUNS): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) (once; again when pyproject.toml changes)"
	@$(PIP) --editable '.[cli]'
	@touch $(RUNS)

# pip knows dependency groups from 25.1 on; the pip that Python 3.11 ships does not.
$(READY): $(RUNS)
	@$(PIP) --upgrade 'pip>=25.1'
	@$(PIP) --editable . --group dev
	@touch $(READY)

run: $(RUNS)
	@$(BIN)/portico demo

test: $(READY)
	@$(BIN)/python -m pytest $(ARGS)

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(READY)
	@$(BIN)/python -m bench $(ARGS)

# Without a C compiler one row of its tables is missing.
bench-peers: $(READY)
	@$(MAKE) --no-print-directory compiled || echo "not compiled: measured as it is written"
	@$(BIN)/python -m bench.peers $(ARGS)

# In a copy: the compiler writes beside the sources, where a file changed later would be ignored.
COMPILED := .compiled
compiled: $(COMPILED)/.ready
$(COMPILED)/.ready: $(READY) $(shell find actors proxy -name '*.py')
	@echo "compiling into $(COMPILED) (a minute; needs a C compiler)"
	@rm -rf $(COMPILED) && mkdir -p $(COMPILED)/source
	@cp -r actors proxy pyproject.toml README.md LICENSE $(COMPILED)/source
	@HATCH_BUILD_HOOK_ENABLE_MYPYC=1 $(PIP) --no-deps --target $(COMPILED)/packages ./$(COMPILED)/source
	@rm -rf $(COMPILED)/source && touch $@

# The same tests over the compiled modules. -P: this folder's own packages must not come first.
test-compiled: export PYTHONPATH = $(CURDIR)/$(COMPILED)/packages:$(CURDIR)
test-compiled: compiled
	@$(BIN)/python -P -c 'import proxy.core.lines as lines; assert lines.__file__.endswith(".so"), lines.__file__'
	@$(BIN)/python -P -m pytest -p no:cacheprovider \
		tests/proxy tests/fuzz tests/corpora tests/properties $(ARGS)

# The fuzzer is nobody's dependency but this target's; where it cannot be had, hypothesis does what it can.
$(VENV)/.fuzz: $(READY)
	@$(PIP) --group fuzz || echo "no atheris for this Python or machine"
	@touch $@

fuzz: $(VENV)/.fuzz
	@$(BIN)/python -m tests.fuzz $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .bench
