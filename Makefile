# One entry for everything; `make` lists it. Each target sets up what it needs, so order never matters.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
BIN := .venv/bin

.PHONY: help setup demo test test-slow test-protocol test-hosts test-integrations smoke-use-cases check format bench reference recording dist dist-check lock

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install what is missing: system packages through apt, Python packages through uv
	@scripts/setup.sh

demo: setup ## Show it work: build a guest, boot it, run commands in it
	@$(BIN)/pyro demo

test: setup ## Run all tests but the slow ones and those with programs from npm
	$(BIN)/pytest -m "not slow and not hosts and not protocol"

test-slow: setup ## Run the long tests
	$(BIN)/pytest -m slow

test-protocol: setup ## Try the MCP server with the inspector and the conformance suite from npm (400 MB)
	$(BIN)/pytest -m protocol

test-hosts: setup ## Drive the real Claude Code, Codex and OpenCode from npm (1 GB)
	$(BIN)/pytest -m hosts

smoke-use-cases: setup ## Play the use cases of docs/use-cases with real guests; one of them with USE_CASE=name
	$(BIN)/pytest tests/surface/test_use_cases.py -k "$(or $(USE_CASE),test)"

test-integrations: setup ## Test what is made for other packages, with those from PyPI in a venv of their own
	@scripts/integrations.sh

check: setup ## Lint, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: setup ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## Measure speed and memory against raw QEMU
	@$(BIN)/python benchmarks/bench.py

reference: setup ## Write docs/reference from the code
	$(BIN)/python scripts/reference.py

recording: setup ## Draw docs/quick-start.svg from a real run
	$(BIN)/python scripts/recording.py

dist: setup ## Build wheel and source distribution into dist/
	@scripts/uv.sh build --quiet --out-dir dist

dist-check: setup ## Build wheel and source distribution, check them, and run each in a clean place
	@scripts/dist-check.sh

lock: setup ## Renew requirements.lock from pyproject.toml
	@scripts/uv.sh pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --custom-compile-command 'make lock' --group dev --upgrade --output-file requirements.lock pyproject.toml
