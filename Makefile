# Commands for developers; `make` lists them. All run in .venv, which is made on first use.

PYTHON ?= python3
# torch: the wheel of this version on PyPI. For another build (without GPU, or another CUDA; then also
# ONNX=gpu) name its package index: make setup TORCH_INDEX=<address>
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
ONNX ?= cpu

VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.nac_ros-complete
SETUP := $(PYTHON) tools/setup_env.py --venv $(VENV) --stamp $(STAMP) \
	--torch '$(TORCH)' --torch-index '$(TORCH_INDEX)' --onnx $(ONNX)

.DEFAULT_GOAL := help
.PHONY: help setup demo test bench soak tutorial interop study lint

STUDY := runs/twin_study
TASKS := weighing marker grapes two_blocks
DEMONSTRATIONS := $(TASKS:%=$(STUDY)/data/%)
CELLS := ar_guided:nac ar_guided:nac:regression ar_guided:nac:regression_tokens ar:nac ar:rotated_rvq regression diffusion

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: ## build or repair .venv, then check it
	@$(SETUP)

demo: $(STAMP) ## trials in the twin over ROS 2, with report and video (under 6 minutes)
	@$(VENV)/bin/nac demo

test: $(STAMP) ## all tests; NAC_DATA=<folder> adds tests on real data
	@$(RUN) tools/run_tests.py

bench: $(STAMP) ## measured times as ratios to their budgets
	@$(RUN) -m pytest -q -m bench -s

soak: $(STAMP) ## long runs at full rate: memory, drift, stops
	@$(RUN) -m pytest -q -m soak -s

tutorial: $(STAMP) ## run the commands of docs/tutorial.md (under 40 minutes)
	@$(RUN) tools/tutorial.py

interop: $(STAMP) ## stock lerobot, rosbags and mcap read our files (separate environment of 8 GB; not in CI)
	@$(RUN) tools/interop.py --torch-index '$(TORCH_INDEX)'

study: $(STAMP) ## policies and tokenizers compared on four tasks of the twin (hours; continues if interrupted)
	@for task in $(TASKS); do \
		$(VENV)/bin/nac data generate --task $$task --episodes 150 --out $(STUDY)/data/$$task || exit; done
	@for name in nac rotated_rvq; do \
		$(VENV)/bin/nac tokenizer train --tokenizer $$name --robot vx300s --data $(DEMONSTRATIONS) \
			--out $(STUDY)/$$name --resume --threads 1 || exit; done
	@$(RUN) -m tools.twin_study --data $(DEMONSTRATIONS) --tokenizers $(STUDY)/nac $(STUDY)/rotated_rvq \
		--vision models/four_tasks --out $(STUDY)/cells --cells $(CELLS) --report $(STUDY)/report.json

lint: $(STAMP) ## check format, lint and types
	@$(RUN) -m ruff format --check nac_ros test tools launch setup.py
	@$(RUN) -m ruff check nac_ros test tools launch setup.py
	@$(RUN) -m mypy

$(STAMP): setup.py pyproject.toml tools/setup_env.py
	@$(SETUP)
