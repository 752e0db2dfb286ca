# `make wgan` sets everything up and runs the main job; `make test` sets up and runs the tests.
# More parameters: make wgan ARGS="-P steps=300 -P gp_scale=5"

PYTHON ?= python3
ARGS ?=
MODEL ?= models:/wgan-generator@latest-good
PORT ?= 5001
CASES ?= 2000
SEED ?= 0
VENV := .venv
BIN := $(VENV)/bin

# A process per core (at most 4: each loads PyTorch) with one thread each: threads of several processes would wait for each other.
# By file, so that what the tests of a file share is made once; in the order of tests/conftest.py, the long ones first.
PYTEST := OMP_NUM_THREADS=1 python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

export PATH := $(abspath $(BIN)):$(PATH)

# The keys of MLproject's entry_points: two spaces, a name, a colon.
ENTRY_POINTS := $(shell sed -n 's/^  \([a-z_]*\):$$/\1/p' MLproject)

.PHONY: help setup $(ENTRY_POINTS) ui serve test test-all faults services stack-test docker-verify lint clean

help:
	@echo "make wgan      set up, train the WGAN-GP on the embedded digits, register the models"
	@echo "make fid       measure the newest generator   make isir_fid  correct its latent distribution, and measure the gain"
	@echo "make eeg_simclr   pre-train an EEG encoder by contrast, and see if it helps to classify imagined fist movements"
	@echo "make eeg_transformer   classify imagined fist movements with a Transformer"
	@echo "make efficient_attention   its cheaper relatives: accuracy, time and memory over the length of the sequence"
	@echo "make tune      search the parameters of a trainer: ARGS='-P target=wgan|eeg_simclr|eeg_transformer|efficient_attention'"
	@echo "make theory    the exercise's theoretical part, its answers checked by computation"
	@echo "make serve     answer HTTP requests by a registered model: MODEL=models:/wgan-generator@latest-good PORT=5001"
	@echo "make report    all runs on one page, report.html"
	@echo "make test      set up and run the tests       make test-all   with the slow ones"
	@echo "make faults    damage what is read, many times: CASES=10000 SEED=1; writes the table of docs/reliability.md"
	@echo "make lint      ruff, mypy, hadolint           make ui         MLflow UI on http://127.0.0.1:5000"
	@echo "make stack-test      two trainers and a study against a real server with PostgreSQL and an S3 store (after make services)"
	@echo "make docker-verify   build and run the images and the stack of compose.yaml with podman, as root (docs/docker.md)"

setup: $(VENV)/.ready

# The stamp is touched last, so that an interrupted installation is done again.
$(VENV)/.ready: requirements.txt requirements-nodeps.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 13) else f"error: Python {v[0]}.{v[1]} found, 3.11 or 3.12 is needed; run: make PYTHON=/path/to/python3.11 ...")'
	@echo "Setting up $(VENV) (PyTorch with its CUDA libraries: about 6 GB, a few minutes) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-nodeps.txt
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready requirements-dev.txt
	@# --no-warn-conflicts: torch-mimicry and torcheeg are there without their own requirements, on purpose
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-warn-conflicts -r requirements-dev.txt
	@touch $@

$(ENTRY_POINTS): $(VENV)/.ready
	@# MLflow makes its database in place, and a kill meanwhile leaves one that nothing can use.
	@test -n "$$MLFLOW_TRACKING_URI" || test -e mlflow.db || python -m tracking init
	mlflow run . -e $@ --env-manager local --experiment-name wgan-eeg $(ARGS)

ui: $(VENV)/.ready
	mlflow ui --host 127.0.0.1 --port 5000

# docs/serving.md. Nothing is unpickled; no line per request.
serve: $(VENV)/.ready
	@export MLFLOW_TRACKING_URI=$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db} MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false \
	MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR=false MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD=false UVICORN_LOG_LEVEL=warning; \
	printed=$$(python -m tracking resolve "$(MODEL)") || exit 2; \
	model=$$(echo "$$printed" | tail -n 1); \
	echo "serving $$model on http://127.0.0.1:$(PORT): GET /health answers when it is ready; Ctrl-C ends it"; \
	exec mlflow models serve -m "$$model" --env-manager local --host 127.0.0.1 --port $(PORT) $(ARGS)

test: $(VENV)/.ready-dev
	$(PYTEST) $(ARGS)

test-all: $(VENV)/.ready-dev
	$(PYTEST) -m "" $(ARGS)

# Status and table of all faults, also where some fail. A test of hundreds of trainings takes as long as it takes; each of
# them has a limit of its own.
faults: $(VENV)/.ready-dev
	rm -rf .faults && mkdir .faults
	FAULT_CASES=$(CASES) FAULT_SEED=$(SEED) FAULT_RESULTS=$(abspath .faults) $(PYTEST) -m fault tests/faults -rP --timeout 0 $(ARGS); \
	status=$$?; python -m tests.faults.table .faults docs/reliability.md && exit $$status

# Debian's PostgreSQL, for tests/stack, and its Chromium, for the report's pages; those tests are skipped without them.
services:
	@test -n "$$(ls /usr/lib/postgresql/*/bin/initdb 2>/dev/null)" || { apt-get update -qq && apt-get install -y -qq postgresql; }
	@command -v chromium >/dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium; }

stack-test: $(VENV)/.ready-dev
	OMP_NUM_THREADS=1 python -m pytest -m "" tests/stack $(ARGS)

docker-verify: $(VENV)/.ready-dev
	docker/verify/run.sh

lint: $(VENV)/.ready-dev
	ruff check .
	ruff format --check .
	mypy
	hadolint Dockerfile

clean:
	rm -rf $(VENV) .faults cache .mypy_cache .ruff_cache .pytest_cache
