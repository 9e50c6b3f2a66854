# Two commands do everything on a fresh machine with Python 3.11 and make:
#   make export                       set up, then export configs/simplenet.yaml and configs/silero-vad.yaml
#   make export CONFIG=my.yaml        the same for your own
#   make test                         set up, then run the tests
# pip's own environment variables (PIP_INDEX_URL, PIP_FIND_LINKS, …) are honoured throughout.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
CONFIG ?= configs/simplenet.yaml configs/silero-vad.yaml
JOBS ?= 2

BIN := .venv/bin
PUBLISHED := silero-vad facenet-pnet efficientnet-lite0 minilm
NEEDED := $(filter $(PUBLISHED),$(basename $(notdir $(CONFIG))))
# One thread for each of the test processes: libraries otherwise take every core each.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: help setup weights export test lint schema test-cuda-fallback clean

help:  ## show this
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

setup: .venv/installed  ## create .venv with everything an export needs

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] < (3, 14) else f"error: Python {sys.version.split()[0]}; weighbridge needs 3.11 to 3.13 (make PYTHON=python3.11 …)")'
	@echo "setting up .venv (once; torch is 200 MB or more, depending on the wheel)" >&2
	@$(PYTHON) -m venv .venv
	@$(call install,'.[cpu]')
	@touch $@

.venv/installed-dev: .venv/installed
	@echo "installing what the tests need" >&2
	@$(call install,'.[cpu,dev]')
	@touch $@

# Show what is downloaded; keep the rest in a log, and show all of it when pip fails.
define install
$(BIN)/python -m pip install --progress-bar off --disable-pip-version-check -c constraints.txt -e $(1) 2>&1 \
	| tee .venv/install.log | awk '/^ *Downloading /{print "  " $$2, $$3, $$4; fflush()}' >&2 \
	|| { cat .venv/install.log >&2; exit 1; }
endef

weights: .venv/installed  ## fetch the published weights of the shipped configs
	@$(BIN)/python scripts/fetch_weights.py $(PUBLISHED)

export: .venv/installed  ## export CONFIG (default: simplenet and silero-vad)
	@$(if $(NEEDED),$(BIN)/python scripts/fetch_weights.py $(NEEDED))
	@$(BIN)/weighbridge export $(CONFIG)

test: .venv/installed-dev weights  ## run the tests
	@$(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS)

lint: .venv/installed-dev  ## ruff, mypy, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

schema: .venv/installed  ## write schema/config.schema.json from the code
	@mkdir -p schema
	@$(BIN)/weighbridge schema > schema/config.schema.json

# A GPU build of onnxruntime on a machine without a GPU falls back to the CPU without a word; this proves that we notice.
# It needs an environment of its own: onnxruntime and onnxruntime-gpu provide the same module.
test-cuda-fallback:  ## prove that a silent fallback to the CPU is noticed (downloads onnxruntime-gpu, 200 MB)
	@test -x .venv-cuda/bin/python || $(PYTHON) -m venv .venv-cuda
	@.venv-cuda/bin/python -m pip install --quiet --disable-pip-version-check onnxruntime-gpu==1.32.0 onnx==1.23.2 pytest pytest-timeout -e .
	@$(ONE_THREAD) .venv-cuda/bin/python -m pytest -p no:cacheprovider tests/cuda_fallback

clean:  ## remove .venv and what was built; releases stay
	@rm -rf .venv .venv-cuda build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
