# `make` lists the targets. Everything runs in .venv, made on first use.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.SUFFIXES:

WORKDIR ?= runs/digits
# Files side by side: the tests of one file share what they compile.
PARALLEL ?= -n auto --maxprocesses=4 --dist=loadfile
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin

# The interpreter. Unless PYTHON is given: the one that .venv was made with, or else
# python3. A pyenv shim can be on PATH and refuse to run; then pyenv's own copies are
# tried. FOUND is the path and the version, or empty when nothing runs.
ifeq ($(origin PYTHON),undefined)
CANDIDATES := $(BIN)/python python3
endif
PYTHON ?= python3
CANDIDATES ?= $(PYTHON)
PYENV_COPIES := $${PYENV_ROOT:-$$HOME/.pyenv}/versions/*/bin/$(notdir $(PYTHON))
FOUND := $(shell \
  for python in $(CANDIDATES) $$(type -ap $(PYTHON)) $(PYENV_COPIES); do \
    version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' \
      2>/dev/null) && echo "$$python $$version" && break; \
  done)
INTERPRETER := $(word 1,$(FOUND))
VERSION := $(word 2,$(FOUND))

# Present when .venv has this Python and what pyproject.toml asks for.
STAMP := $(VENV)/.installed-python$(VERSION)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' \
	  $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=python3.12   the interpreter that .venv is made with (3.11 or newer)"
	@echo "  WORKDIR=runs/digits where make train writes"
	@echo "  ARGS=...            added to the command of train, test and test-slow"

.PHONY: install
install: $(STAMP) ## make .venv with the package and the tools (other targets do it too)

$(STAMP): pyproject.toml
	@[ -n "$(VERSION)" ] || { \
	  echo "vit_jax needs Python 3.11 or newer; '$(PYTHON)' does not run." \
	    "Set PYTHON, for example: make PYTHON=/usr/bin/python3.12 $(MAKECMDGOALS)" >&2; \
	  exit 1; }
	@"$(INTERPRETER)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "vit_jax needs Python 3.11 or newer; $(INTERPRETER) is $(VERSION)." \
	    "Set PYTHON, for example: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
	  exit 1; }
	@echo "Installing vit_jax and its tools in $(VENV) with Python $(VERSION);" \
	  "the first time takes a minute or more."
	@has=$$($(BIN)/python -c \
	    'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true); \
	  [ "$$has" = "$(VERSION)" ] || "$(INTERPRETER)" -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

.PHONY: train
train: $(STAMP) ## train a small ViT on scikit-learn's digits (CPU, no download)
	$(BIN)/vit-jax prepare digits
	$(BIN)/vit-jax train --config=configs/digits.py --workdir=$(WORKDIR) $(ARGS)

.PHONY: test
test: $(STAMP) ## run the tests on 8 simulated devices, and the short form of chaos
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)
	$(if $(ARGS),,$(BIN)/python scripts/chaos.py --short)

.PHONY: test-slow
test-slow: $(STAMP) ## run the long tests, which make test leaves out
	$(BIN)/python -m pytest -m slow $(ARGS)

.PHONY: test-cluster
test-cluster: $(STAMP) ## install mpirun and Slurm (root, Debian), and train under them
	scripts/install_test_tools.sh
	$(BIN)/python -m pytest -m cluster -rs $(ARGS)

.PHONY: test-browser
test-browser: $(STAMP) ## install Chromium (root, Debian), and look at reports in it
	scripts/install_test_tools.sh
	$(BIN)/python -m pytest -m browser -rs $(ARGS)

.PHONY: test-tools
test-tools: $(STAMP) ## run the shorter of both; those whose tools are not there are skipped
	$(BIN)/python -m pytest -m '(cluster or browser) and not slow' -rs $(ARGS)

.PHONY: docs
docs: $(STAMP) ## build the pages of docs/ as a site in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo build/site/index.html

.PHONY: chaos
chaos: $(STAMP) ## kill and damage runs in full; an interrupted one goes on
	$(BIN)/python scripts/chaos.py --resume --store=runs/chaos.json $(ARGS)

.PHONY: format
format: $(STAMP) ## format the code and repair what can be repaired
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: lint
lint: $(STAMP) ## check format and style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

.PHONY: typecheck
typecheck: $(STAMP) ## check types
	$(BIN)/pyright

.PHONY: imports
imports: $(STAMP) ## check which module imports which
	$(BIN)/lint-imports

.PHONY: check
check: lint typecheck imports test ## all of the above that CI runs

.PHONY: build
build: $(STAMP) ## build the wheel in dist/
	$(BIN)/python -m pip wheel . --no-deps --no-build-isolation -w dist \
	  --quiet --disable-pip-version-check
	@ls dist/*.whl

.PHONY: clean
clean: ## remove caches and builds; .venv and runs stay
	rm -rf build dist .import_linter_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
