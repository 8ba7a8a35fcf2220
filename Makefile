# Sluicegate. `make` alone lists what there is.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Which Python makes .venv (3.11 or newer), and what to pass on to the command that a target runs.
PYTHON ?= python3
ARGS ?=
export PYTHON

BIN := .venv/bin
DEMO := --data-port 8080 --console-port 8081 --ops-port 8082 --dir ./sluicegate-data
COMPILE := uv pip compile --quiet --generate-hashes --no-header --universal --python-version 3.11
SOURCES := gateway tests $(wildcard bench)

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  ARGS='…' is passed on: make demo ARGS='--no-tour', make test ARGS='-k audit'"

.PHONY: demo
demo: ## See it work: gateway, practice endpoint, three defenders, a tour of eight steps
	@tools/environment.sh requirements-demo.lock
	@$(BIN)/sluicegate demo $(DEMO) $(ARGS)

.PHONY: test
test: environment tools-if-go ## Run all tests; what is absent is skipped by name, with CI=true it fails
	@$(BIN)/pytest -m 'not long' $(ARGS)

.PHONY: long
long: environment tools-if-go ## Run the soaks and long fault runs; dated results in docs/results/
	@mkdir -p docs/results
	@$(BIN)/pytest -m long $(ARGS) | tee "docs/results/long-$$(date -u +%Y-%m-%dT%H%MZ).txt"

.PHONY: check
check: environment tools-if-go ## Lint, format, types, layers, policies
	@$(BIN)/ruff check --quiet --output-format concise $(SOURCES)
	@$(BIN)/ruff format --check --quiet $(SOURCES)
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@tools/check-policies.sh

.PHONY: bench
bench: environment ## What a call costs, beside nginx and a naive proxy; needs two cores, 6 minutes
	@$(BIN)/python -m bench $(ARGS)

.PHONY: chart
chart: environment tools-if-go ## Lint the Helm chart and validate every object it makes
	@$(BIN)/pytest -q tests/chart $(ARGS)

.PHONY: schemas
schemas: environment ## Write policies/schemas/ from gateway/core
	@mkdir -p policies/schemas
	@$(BIN)/python -m gateway.core.schema > policies/schemas/input.json

.PHONY: tools
tools: ## Build opa and helm from their pins into .cache/tools (needs Go)
	@tools/build.sh

.PHONY: lock
lock: ## Resolve the four locks again (needs uv)
	@$(COMPILE) pyproject.toml --extra demo --group dev -o requirements-dev.lock
	@$(COMPILE) pyproject.toml -c requirements-dev.lock -o requirements.lock
	@$(COMPILE) pyproject.toml -c requirements-dev.lock --extra demo --group install -o requirements-demo.lock
	@$(COMPILE) --group build -c requirements-dev.lock -o requirements-build.lock

.PHONY: clean
clean: ## Remove what was generated; keeps built tools and ./sluicegate-data
	@rm -rf .venv dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: environment
environment:
	@tools/environment.sh requirements-dev.lock

# Without Go the tests that need a built tool are skipped by name; with CI=true that is an error.
.PHONY: tools-if-go
tools-if-go:
	@if command -v go >/dev/null || [ "$${CI:-}" = true ]; then tools/build.sh; \
	else echo "There is no go: opa and helm are not built."; fi
