# Every command that a person or CI may run.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
VENV ?= .venv
PY := $(VENV)/bin/python
CONFIG ?= deploy/config/demo.toml
MODEL ?= runs/chain-sft
# In this order a broken foundation is reported before anything slow starts.
SUITES := tests/unit tests/test_architecture.py tests/golden tests/contract tests/service tests/simulation tests/e2e
# Where `make lock` finds the CPU build of torch.
TORCH_SOURCE ?= --torch-backend cpu
# Seconds of `make fuzz` for each target.
FUZZ_S ?= 60
export OMP_NUM_THREADS ?= 1

.PHONY: help setup demo test test-all check lock proto docs bench fuzz golden clean

help:  ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## Make .venv with everything pinned (OPRIME_GPU=1 for CUDA builds)
	@OPRIME_VENV=$(VENV) deploy/setup_env.sh

demo: setup  ## Train a small model on this machine and write its report
	$(VENV)/bin/oprime train $(CONFIG) --fresh

test: setup  ## Run all tests but the slow and the GPU ones
	$(PY) -m pytest $(SUITES) -m "not slow and not gpu" --maxfail 5 --durations 15

test-all: setup  ## Run the slow tests too, and those for a GPU where there is one
	$(PY) -m pytest $(SUITES) $(wildcard tests/gpu) --durations 25

check: setup  ## Formatting, lint, types, import rules, generated files, unit tests
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(VENV)/bin/pyright
	$(VENV)/bin/lint-imports
	$(PY) -m pytest tests/test_architecture.py tests/unit -q

lock:  ## Resolve requirements/*.in anew (needs uv)
	uv pip compile requirements/cpu.in requirements/dev.in --override requirements/cpu.overrides --python-version 3.11 \
	  --python-platform x86_64-manylinux_2_28 --no-annotate --no-header --no-emit-index-url $(TORCH_SOURCE) --upgrade -o requirements/cpu.lock
	uv pip compile requirements/gpu.in requirements/dev.in --python-version 3.11 \
	  --python-platform x86_64-manylinux_2_28 --no-annotate --no-header --no-emit-index-url --upgrade -o requirements/gpu.lock

proto: setup  ## Generate the protobuf code anew
	$(PY) -m grpc_tools.protoc -I proto --python_out=proto --pyi_out=proto --grpc_python_out=proto proto/oprime_proto/v1/*.proto

docs: setup  ## Generate docs/settings.md anew
	$(PY) -m oprime_cli.settings_docs docs/settings.md

bench: setup  ## Measure throughput: the loop, synchronous beside asynchronous, a train step, and the verifier
	$(PY) -m bench

fuzz: setup  ## Fuzz what reads hostile text, FUZZ_S seconds each
	$(PY) -m pip --disable-pip-version-check install -qq atheris==3.0.0
	$(PY) tests/fuzz/fuzz_verifier_text.py math -max_total_time=$(FUZZ_S) -max_len=300
	$(PY) tests/fuzz/fuzz_verifier_text.py code -max_total_time=$(FUZZ_S) -max_len=2000

golden: setup  ## Run the slow, obvious reference: PRIME in one file, on the demo's starting model
	$(PY) tests/golden/prime_in_one_file.py $(MODEL)

clean:  ## Remove caches and generated leftovers; runs and .venv stay
	rm -rf .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist
	find shared services proto tests bench -type d -name __pycache__ -prune -exec rm -rf {} +
