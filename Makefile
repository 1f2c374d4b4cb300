# What a developer types; `make` alone lists it. Everything runs in .venv, made on first use.

PYTHON ?= python3
# torch: PyPI's wheel of this version; for another build (small without GPU, or another CUDA, then
# with ONNX=gpu) say where it lies: make setup TORCH_INDEX=<address of a wheel index>
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
ONNX ?= cpu

VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.nac_ros-complete
SETUP := $(PYTHON) tools/setup_env.py --venv $(VENV) --stamp $(STAMP) \
	--torch '$(TORCH)' --torch-index '$(TORCH_INDEX)' --onnx $(ONNX)

.DEFAULT_GOAL := help
.PHONY: help setup demo test bench soak tutorial interop lint

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: ## build or mend .venv, then check it
	@$(SETUP)

demo: $(STAMP) ## judged trials in the twin over ROS 2, with a report (under 6 minutes)
	@$(VENV)/bin/nac demo

test: $(STAMP) ## all tests; NAC_DATA=<folder> adds those on real data
	@$(RUN) tools/run_tests.py

bench: $(STAMP) ## how long the runtime's parts take, as ratios to their budgets
	@$(RUN) -m pytest -q -m bench -s

soak: $(STAMP) ## long runs at full rate: nothing grows, drifts or stops
	@$(RUN) -m pytest -q -m soak -s

tutorial: $(STAMP) ## run the commands of docs/tutorial.md (under 40 minutes)
	@$(RUN) tools/tutorial.py

interop: $(STAMP) ## stock lerobot, rosbags and mcap read our files (own venv of 8 GB; never in CI)
	@$(RUN) tools/interop.py --torch-index '$(TORCH_INDEX)'

lint: $(STAMP) ## format, lint and types
	@$(RUN) -m ruff format --check nac_ros test tools launch setup.py
	@$(RUN) -m ruff check nac_ros test tools launch setup.py
	@$(RUN) -m mypy

$(STAMP): setup.py pyproject.toml tools/setup_env.py
	@$(SETUP)
