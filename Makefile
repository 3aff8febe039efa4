# Two commands: `make demo` shows what Initio says, `make check` runs every guard.
# An active virtual environment is used; otherwise .venv is made. TORCH chooses the torch to install there.
SHELL := /bin/bash
PYTHON ?= python3
TORCH ?= torch>=2.9
VENV := $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV),$(CURDIR)/.venv)
BIN := $(VENV)/bin
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help check demo docs clean lint types layers test zoo

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "initio: '$(PYTHON)' was not found. Install Python 3.10 or newer, or name one: make PYTHON=/path/to/python"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "initio: $$($(PYTHON) --version) is too old; 3.10 or newer is needed: make PYTHON=/path/to/python"; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "initio: this Python has no venv module with pip. On Debian and Ubuntu: apt-get install python3-venv"; exit 2; }
	$(PYTHON) -m venv "$(VENV)"

$(VENV)/.initio-torch: | $(BIN)/python
	@"$(BIN)/python" -c 'import torch' 2>/dev/null || "$(BIN)/python" -m pip install -q '$(TORCH)' \
	  || { echo "initio: torch could not be installed. Install it into $(VENV) by the line that pytorch.org gives for your machine, then repeat."; exit 2; }
	@touch $@

$(VENV)/.initio-run: pyproject.toml | $(VENV)/.initio-torch
	@"$(BIN)/python" -m pip install -q -e . || { echo "initio: the package could not be installed into $(VENV); pip says why above."; exit 2; }
	@touch $@

$(VENV)/.initio-dev: pyproject.toml | $(VENV)/.initio-torch
	@"$(BIN)/python" -m pip install -q -e '.[dev]' || { echo "initio: the development tools could not be installed into $(VENV); pip says why above."; exit 2; }
	@touch $@

demo: $(VENV)/.initio-run ## install, and run `initio check` on the models that ship with the package
	@"$(BIN)/initio" check --fail-on never
	@echo
	@echo "What to look at: each model above stands under its file. 'residual' is healthy and has no finding; the others"
	@echo "carry the faults that their first line names, with the line of code and the number that shows it."
	@echo "Go on with your own model:  $(BIN)/initio check path/to/file.py:Model --input 8x3x224x224"

lint: $(VENV)/.initio-dev ## ruff, rules and format
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .

types: $(VENV)/.initio-dev ## pyright, strict
	"$(BIN)/pyright" --pythonpath "$(BIN)/python"

layers: $(VENV)/.initio-dev ## who may import whom
	"$(BIN)/lint-imports"

test: $(VENV)/.initio-dev ## tests and doctests
	"$(BIN)/python" -m pytest -n $(JOBS)

docs: $(VENV)/.initio-dev ## build the documentation
	NO_MKDOCS_2_WARNING=1 "$(BIN)/mkdocs" build --strict --quiet

zoo: $(VENV)/.initio-run ## predictions against draws over all models of the zoo, into docs/accuracy.md (hours; resumable; needs torchvision, timm, transformers)
	"$(BIN)/python" benchmarks/accuracy.py

check: lint types layers docs test ## every guard

clean: ## remove what was built, the environment included
	rm -rf .venv site build dist .pytest_cache .ruff_cache
