# Every command that a person or CI may run.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
VENV ?= .venv
PY := $(VENV)/bin/python
CONFIG ?= deploy/config/demo.toml
MODEL ?= runs/chain-sft
# Of `make pictures`.
RUN ?= runs/demo
# In this order a broken foundation is reported before anything slow starts.
SUITES := tests/unit tests/test_architecture.py tests/golden tests/contract tests/service tests/simulation tests/e2e
# Where `make lock` finds the CPU build of torch.
TORCH_SOURCE ?= --torch-backend cpu
# Test processes at a time: tests wait for other processes about as often as they compute. A run through all services takes about six
# processes and 6 GB, so it is memory that sets a bound.
WORKERS ?= $(shell awk '/MemTotal/ { print ($$2 > 20e6) ? 3 : 2 }' /proc/meminfo 2>/dev/null || echo 2)
# Each file by one process, files in the order of SUITES.
TESTS := $(PY) -m pytest $(SUITES) -n $(WORKERS) --dist loadfile --no-loadscope-reorder
RESOLVE := uv pip compile -q --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-annotate --no-header --no-emit-index-url
# One list of requirements/images: $(1) is the set, $(2) cpu or gpu. A set that is the same for both has no suffix.
define LOCK_IMAGE
$(RESOLVE) $(firstword $(wildcard requirements/images/$(1).in) requirements/images/$(1)-$(2).in) -c requirements/$(2).lock \
  $(if $(filter cpu,$(2)),--override requirements/images/cpu.overrides $(TORCH_SOURCE)) \
  $(if $(filter common slim,$(1)),--override requirements/images/slim.overrides) \
  -o requirements/images/$(1)$(if $(filter torch train generator,$(1)),-$(2)).lock

endef
# Seconds of `make fuzz` for each target.
FUZZ_S ?= 60
# Of `make chaos`: how many faults, and the seed of its first run.
FAULTS ?= 100
SEED ?= 0
# Of `make images` and what uses them. PYTHON_IMAGE, CUDA_IMAGE, PIP_INDEX_URL and TORCH_INDEX go to the Dockerfile where they are set.
DOCKER ?= docker
IMAGE ?= oprime
ACCELERATOR ?= cpu
BUILD_ARGS := $(foreach name,PYTHON_IMAGE CUDA_IMAGE PIP_INDEX_URL PIP_EXTRA_INDEX_URL TORCH_INDEX,$(if $($(name)),--build-arg $(name)=$($(name))))
# One image: $(1) is the target, $(2) the end of its tag, $(3) cpu or gpu. PIP_CONF is a pip.conf that no layer keeps.
define IMAGE_OF
DOCKER_BUILDKIT=1 $(DOCKER) build --file deploy/docker/Dockerfile --target $(1) --tag $(IMAGE):0.1.0-$(2) --build-arg ACCELERATOR=$(3) \
  --build-arg REVISION=$$(git rev-parse --short HEAD 2>/dev/null || echo unknown) $(BUILD_ARGS) $(if $(PIP_CONF),--secret id=pip$(COMMA)src=$(PIP_CONF)) .

endef
COMMA := ,
export OMP_NUM_THREADS ?= 1
# Processes that start again and again find their modules compiled, also where the environment would have nothing written.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup demo recipe recipe-start test retest test-all test-gpu check lock lock-images proto docs bench chaos pictures images sbom test-compose test-wheel fuzz fuzz-api golden clean

help:  ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## Make .venv with everything pinned (OPRIME_GPU=1 for CUDA builds)
	@OPRIME_VENV=$(VENV) deploy/setup_env.sh

demo: setup  ## Train a small model on this machine and write its report
	$(VENV)/bin/oprime train $(CONFIG) --fresh

recipe: setup  ## Go through the whole recipe in miniature: supervised start, PRIME on math and code, offline PRM, best-of-N
	$(PY) -m recipe

recipe-start: setup  ## Make the starting model of `make recipe` anew, from nothing (deploy/recipe/start)
	$(PY) -m recipe start --set model.dtype=bfloat16

test: setup  ## Run all tests but the slow and the GPU ones
	$(TESTS) -m "not slow and not gpu" --maxfail 5 --durations 15

retest: setup  ## Run the tests that failed last, one after the other
	$(PY) -m pytest $(SUITES) -m "not slow and not gpu" --last-failed --last-failed-no-failures none

test-all: setup  ## Run the slow tests too, and those for a GPU where there is one
	$(PY) -m pytest $(SUITES) $(wildcard tests/gpu) --durations 25

test-gpu: setup  ## Run the tests that need a GPU, minutes on one
	$(PY) -m pytest tests/gpu --durations 10

check: setup  ## Formatting, lint, types, import rules, generated files, unit tests
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(VENV)/bin/pyright
	$(VENV)/bin/lint-imports
	$(PY) -m pytest tests/test_architecture.py tests/unit -q

lock:  ## Resolve requirements/*.in anew (needs uv)
	$(RESOLVE) requirements/cpu.in requirements/dev.in --override requirements/cpu.overrides $(TORCH_SOURCE) --upgrade -o requirements/cpu.lock
	$(RESOLVE) requirements/gpu.in requirements/dev.in --override requirements/gpu.overrides --upgrade -o requirements/gpu.lock
	$(MAKE) --no-print-directory lock-images

lock-images:  ## Resolve requirements/images/*.in anew, within cpu.lock and gpu.lock (needs uv)
	rm -f requirements/images/*.lock
	$(foreach set,common slim torch train generator,$(call LOCK_IMAGE,$(set),cpu))
	$(foreach set,torch train generator,$(call LOCK_IMAGE,$(set),gpu))

proto: setup  ## Generate the protobuf code anew
	$(PY) -m grpc_tools.protoc -I proto --python_out=proto --pyi_out=proto --grpc_python_out=proto proto/oprime_proto/v1/*.proto

docs: setup  ## Generate docs/settings.md, docs/metrics.md, the tables of docs/algorithm.md and what deploy/k8s has of other files anew
	$(PY) -m oprime_cli.settings_docs docs/settings.md
	$(PY) -m oprime_cli.metrics_docs docs/metrics.md
	$(PY) -m oprime_cli.algorithm_docs docs/algorithm.md
	$(PY) -m oprime_cli.kubernetes.overlays

bench: setup  ## Measure throughput: the loop, synchronous beside asynchronous, a train step, and the verifier
	$(PY) -m bench

chaos: setup  ## Kill processes and cut connections of running trainings, FAULTS times; nothing may be lost, doubled or stuck
	PYTHONPATH=tests $(PY) -m chaos --faults $(FAULTS) --seed $(SEED)

pictures: setup  ## Take the pictures of the README anew, of the run RUN, in Chromium
	PYTHONPATH=tests $(PY) tests/dashboard_pictures.py $(RUN) docs/pictures

images:  ## Build the container images, each once (ACCELERATOR=gpu: those for NVIDIA GPUs, besides slim)
	$(call IMAGE_OF,slim,slim,cpu)
	$(call IMAGE_OF,train,train-$(ACCELERATOR),$(ACCELERATOR))
	$(call IMAGE_OF,generator,generator-$(ACCELERATOR),$(ACCELERATOR))

sbom:  ## Write what is in each CPU image to sbom/, as CycloneDX
	mkdir -p sbom
	for image in slim train-cpu generator-cpu; do \
	  $(DOCKER) run --rm --network none --entrypoint python $(IMAGE):0.1.0-$$image /opt/oprime/deploy/docker/sbom.py > sbom/$$image.json; done

test-compose: setup  ## Run the containers for real, where a Docker Engine is: build, train through faults, stop, go on edited
	PYTHONPATH=tests $(PY) -m compose --docker $(DOCKER) $(if $(NO_BUILD),--no-build)

test-wheel: setup  ## Install the built wheel with [client], [verifier] and [gateway], each in a fresh environment, and use it without torch
	$(PY) tests/fresh_install.py

fuzz: setup  ## Fuzz what reads hostile text, and ask Math-Verify for a second opinion, FUZZ_S seconds each
	$(PY) -m pip --disable-pip-version-check install -qq atheris==3.0.0
	$(PY) tests/fuzz/fuzz_verifier_text.py math -max_total_time=$(FUZZ_S) -max_len=300
	$(PY) tests/fuzz/fuzz_verifier_text.py code -max_total_time=$(FUZZ_S) -max_len=2000
	PYTHONPATH=tests:. $(PY) tests/fuzz/fuzz_math_verify.py $(FUZZ_S) $(SEED)

fuzz-api: setup  ## Fuzz the HTTP API by its own document, FUZZ_S seconds (Schemathesis, in an environment of its own)
	$(PY) -m venv $(VENV)-fuzz
	$(VENV)-fuzz/bin/python -m pip --disable-pip-version-check install -qq schemathesis==4.32.5
	PYTHONPATH=tests $(PY) tests/fuzz/fuzz_api.py $(VENV)-fuzz/bin/st $(FUZZ_S)

golden: setup  ## Run the slow, obvious reference: PRIME in one file, on the demo's starting model
	$(PY) tests/golden/prime_in_one_file.py $(MODEL)

clean:  ## Remove caches and generated leftovers; runs and .venv stay
	rm -rf .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist sbom
	find cli shared services proto tests bench recipe -type d -name __pycache__ -prune -exec rm -rf {} +
