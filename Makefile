# What a developer does here. Every target sets up .venv first; that is quiet and instant when nothing has changed.
#   make demo ARGS="--model Qwen/Qwen2.5-0.5B-Instruct --transcripts FILE"
#   make setup PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"    (torch without CUDA)
PYTHON ?= python3.11
PIP_ARGS ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
HASH := $(shell cat pyproject.toml constraints.txt | (sha256sum 2>/dev/null || shasum -a 256) | cut -c1-16)
STAMP := $(VENV)/.stamp-$(HASH)

.PHONY: setup demo test test-all lint format bench

setup: $(STAMP)

$(STAMP):
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo "Setting up $(VENV): a few minutes the first time"
	@$(BIN)/pip install -q --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e ".[dev]"
	@rm -f $(VENV)/.stamp-*
	@touch $@

demo: setup
	@$(BIN)/turnscope demo $(ARGS)

test: setup
	@$(BIN)/pytest -m "not slow and not web and not cluster and not gpu" $(ARGS)

test-all: setup
	@$(BIN)/pytest $(ARGS)

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports

format: setup
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: setup
	@for file in benchmarks/*.py; do \
	    test -e "$$file" || continue; \
	    echo "== $$file"; \
	    $(BIN)/python "$$file" --quick || exit 1; \
	done
