# One environment (.venv) and one command a job; `make` lists the jobs.
# Every job installs what it lacks, and what is installed already costs nothing: each stamp in .venv carries the hash of
# what it stands for.

PYTHON ?= python3
# The demo's input (default: the synthetic flight), bundle, output folder and number of frames.
SOURCE ?=
MODEL  ?=
OUT    ?= out/demo
FRAMES ?=
# How long `make fuzz` runs.
MINUTES ?= 10
# What `make test` runs instead of the robot's half; with torch where it is needed.
TESTS  ?=

SHELL       := /bin/bash
.SHELLFLAGS := -e -o pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:

# A sourced ROS 2 is used where there is one; elsewhere it comes as wheels with our own vision_msgs.
ROS  := $(shell [ -n "$$ROS_DISTRO" ] && $(PYTHON) -c 'import rclpy' 2>/dev/null && echo sourced || echo wheels)
VENV := .venv
# Tests that need torch. The others share the cores by files; one more at a time than there are cores, since many wait for nodes.
OFFLINE  := test/training test/benchmarks
WORKERS  := $(shell expr $$(nproc 2>/dev/null || echo 3) + 1)
ROBOT    := --numprocesses=$(WORKERS) --maxprocesses=5 --dist=loadfile test $(addprefix --ignore=,$(OFFLINE))
TRAINING_TESTS := $(filter test test/ $(addsuffix %,$(OFFLINE)),$(TESTS))
RUN  := OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python
PIP  := $(VENV)/bin/python -m pip --disable-pip-version-check -qq install

# Leaves the stamp of a finished step and takes back those of its earlier inputs.
DONE = @rm -f $(basename $@).* && touch $@
# $(call hash,FILES): changes when a file's name or content does.
hash = $(shell sha256sum $(1) 2>/dev/null | sha256sum | cut -c 1-12)
MESSAGES := $(shell find interfaces -name build -prune -o -name __pycache__ -prune -o -name '*.egg-info' -prune -o -type f -print | sort)
SHARED   := $(shell find launch config models scripts resource -type f -not -name '*.pyc' | sort)

BASE     := $(VENV)/stamp.$(ROS)
RUNTIME  := $(BASE).runtime.$(call hash,requirements/runtime.txt requirements/ros.txt requirements/sourced.txt)
INTERFACES := $(BASE).interfaces.$(call hash,$(MESSAGES) requirements/ros.txt)
PACKAGE  := $(BASE).package.$(call hash,setup.py pyproject.toml package.xml kd_perception/__init__.py $(SHARED))
DEVELOPMENT := $(BASE).development.$(call hash,requirements/development.txt requirements/sourced.txt)
ENGINES := $(BASE).engines.$(call hash,requirements/engines.txt requirements/runtime.txt requirements/sourced.txt)
ARM := $(VENV)/arm
ARM_ROOT := $(BASE).arm.$(call hash,tools/make_arm_root requirements/runtime.txt requirements/engines.txt)
DOCS := $(BASE).docs.$(call hash,requirements/docs.txt)
TRAINING := $(BASE).training.$(call hash,requirements/training.txt requirements/runtime.txt requirements/sourced.txt)

help:  ## list the jobs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1|/' | column -t -s '|'

demo: $(PACKAGE)  ## camera -> detector -> recorder over DDS, results in OUT; SOURCE=path MODEL=bundle FRAMES=n
	$(RUN) -m kd_perception demo --out '$(OUT)' \
	  $(if $(SOURCE),--source '$(SOURCE)') $(if $(MODEL),--model '$(MODEL)') $(if $(FRAMES),--frames $(FRAMES))

test: $(PACKAGE) $(DEVELOPMENT) $(ENGINES) $(if $(TRAINING_TESTS),$(TRAINING))  ## the robot's half of the tests, or those under TESTS=path
	$(RUN) -m pytest $(or $(TESTS),-m 'not thorough' $(ROBOT))

test-all: $(PACKAGE) $(DEVELOPMENT) $(ENGINES) $(TRAINING)  ## all tests: the robot's half, then training and studies
	$(RUN) -m pytest $(ROBOT)
	$(RUN) -m pytest $(OFFLINE)

coverage: $(PACKAGE) $(DEVELOPMENT) $(ENGINES) $(TRAINING)  ## all tests, and how much of the code they run, by line and branch
	$(RUN) -m pytest --cov --cov-branch --cov-report= $(or $(TESTS),$(ROBOT))
	$(RUN) -m pytest --cov --cov-branch --cov-append $(or $(TESTS),$(OFFLINE))

test-arm: $(PACKAGE) $(DEVELOPMENT) $(ENGINES) $(ARM_ROOT)  ## emulated Arm processors detect what this one does (Linux with apt)
	KD_ARM_ROOT='$(ARM)' $(RUN) -m pytest test/arm

fuzz: $(PACKAGE) $(DEVELOPMENT) $(ENGINES)  ## the property tests of hostile input for MINUTES=n, with ever new seeds
	$(RUN) tools/fuzz --minutes $(MINUTES)

lint: $(PACKAGE) $(DEVELOPMENT) $(TRAINING)  ## style and types; torch, for its types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check --quiet .
	$(VENV)/bin/mypy

docs: $(DOCS)  ## the documentation as a site in out/docs, every link checked
	NO_MKDOCS_2_WARNING=1 $(VENV)/docs/bin/mkdocs build --quiet --strict
	@echo 'out/docs/index.html'

bench: $(PACKAGE)  ## latency of the stages and of the node on this machine
	$(RUN) -m benchmarks

clean:  ## remove the environment and everything made
	rm -rf $(VENV) build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf interfaces/*/build interfaces/*/*.egg-info interfaces/__pycache__
	find . -name __pycache__ -prune -exec rm -rf {} +

$(BASE):
	@tools/check_environment $(PYTHON) $(ROS)
	@echo 'Making the environment $(VENV) with $(shell $(PYTHON) --version) and ROS 2 ($(ROS)) …'
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(if $(filter sourced,$(ROS)),--system-site-packages) $(VENV)
	@touch $@

ifeq ($(ROS),wheels)
$(RUNTIME): | $(BASE)
	@echo 'Installing the runtime set and ROS 2 …'
	@$(PIP) --no-deps -r requirements/runtime.txt -r requirements/ros.txt
	$(DONE)

$(INTERFACES): $(RUNTIME)
	@echo 'Compiling vision_msgs, tf2_msgs and foxglove_msgs …'
	@$(PIP) --no-deps --no-build-isolation --force-reinstall ./interfaces/vision_msgs ./interfaces/tf2_msgs ./interfaces/foxglove_msgs
	$(DONE)

$(DEVELOPMENT): | $(RUNTIME)
	@echo 'Installing pytest, ruff and mypy …'
	@$(PIP) --no-deps -r requirements/development.txt
	$(DONE)

$(ENGINES): | $(RUNTIME)
	@echo 'Installing the optional engines (OpenVINO, ncnn) …'
	@$(PIP) --no-deps -r requirements/engines.txt
	$(DONE)

# The second line brings what a CUDA build of torch asks for; with the CPU build nothing is missing.
$(TRAINING): | $(RUNTIME)
	@echo 'Installing the training set (torch, Ultralytics: AGPL-3.0) …'
	@$(PIP) --no-deps -r requirements/training.txt
	@$(PIP) $$(grep -E '^torch(vision)?==' requirements/training.txt)
	$(DONE)
else
$(RUNTIME): | $(BASE)
	@echo 'Installing the runtime set …'
	@$(PIP) 'setuptools>=70.1,<80'
	@$(PIP) -c requirements/sourced.txt --no-build-isolation -e '.[evaluation,demo]'
	$(DONE)

$(INTERFACES): $(RUNTIME)
	@$(VENV)/bin/python -c 'import tf2_msgs.msg, vision_msgs.msg' 2>/dev/null || \
	  { echo "kd_perception: no vision_msgs or tf2_msgs: sudo apt install ros-$$ROS_DISTRO-vision-msgs ros-$$ROS_DISTRO-tf2-msgs" >&2; exit 1; }
	$(DONE)

$(DEVELOPMENT): | $(RUNTIME)
	@echo 'Installing pytest, ruff and mypy …'
	@$(PIP) -c requirements/sourced.txt --no-build-isolation -e '.[development]'
	$(DONE)

$(ENGINES): | $(RUNTIME)
	@echo 'Installing the optional engines (OpenVINO, ncnn) …'
	@$(PIP) -c requirements/sourced.txt --no-build-isolation -e '.[engines]'
	$(DONE)

$(TRAINING): | $(RUNTIME)
	@echo 'Installing the training set (torch, Ultralytics: AGPL-3.0) …'
	@$(PIP) -c requirements/sourced.txt --no-build-isolation -e '.[training]'
	$(DONE)
endif

# Editable, so that the code is never stale; an editable install leaves data_files out, so they are laid here.
$(PACKAGE): $(INTERFACES)
	@echo 'Installing kd_perception from this checkout …'
	@rm -rf $(VENV)/share/kd_perception $(VENV)/lib/kd_perception
	@$(PIP) --no-deps --no-build-isolation -e .
	@$(VENV)/bin/python -W ignore setup.py -q install_data --install-dir $(VENV)
	$(DONE)

$(ARM_ROOT): | $(BASE)
	@echo 'Making a folder with an arm64 Python and the aarch64 wheels …'
	@tools/make_arm_root '$(ARM)'
	$(DONE)

$(DOCS): | $(BASE)
	@echo 'Installing mkdocs …'
	@$(PYTHON) -m venv $(VENV)/docs
	@$(VENV)/docs/bin/python -m pip --disable-pip-version-check -qq install --no-deps -r requirements/docs.txt
	$(DONE)

.PHONY: help demo test test-all coverage test-arm fuzz lint docs bench clean
