# The commands of the project. Each sets up what it needs first; a second time that takes a moment.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup setup-demo setup-test setup-bench demo test lint stubs bench sweep fuzz

BIN := .venv/bin

help: ## tell what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: ## make .venv with all packages
	@scripts/setup.sh

setup-demo:
	@scripts/setup.sh system demo

setup-test:
	@scripts/setup.sh system test

setup-bench:
	@scripts/setup.sh system bench

demo: setup-demo ## three daemons on this machine, a task, and a leader that dies
	@$(BIN)/python scripts/demo.py

lint: setup ## stubs as protos/ gives them, style, types, import rules
	@$(BIN)/python scripts/generate_stubs.py --check
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { $(BIN)/ruff format --check .; exit 1; }
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/mypy --no-error-summary scripts/*.py examples/*/main.py
	@out="$$($(BIN)/lint-imports 2>&1)" || { echo "$$out"; exit 1; }

test: setup-test lint ## lint, then all tests
	@$(BIN)/pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder

stubs: setup ## make hivenode/pb from protos/
	@$(BIN)/python scripts/generate_stubs.py

bench: setup-bench ## measure three nodes on this machine, beside etcd
	@$(BIN)/python -m tests.bench

sweep: setup ## a thousand node-hours of hives under all faults in virtual time, on all cores
	@$(BIN)/python -m simulations sweep --nodes 5 --seeds 400 --hours 0.5 --faults all

fuzz: setup-test ## a million hostile inputs at every decoder
	@$(BIN)/python -m tests.bench --only fuzz --json fuzz-results.json
