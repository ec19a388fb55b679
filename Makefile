# tflite-kiln: `make help` lists the targets.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

JOBS ?= 1
# Tests at a time; files are dealt out whole.
TESTS ?= 2
DIST ?= dist
SAMPLE ?= centernet_mobilenet_v2_fpn_shapes
OUT ?= trained
# Options of `make reproduce-demo`, such as --keep-images.
DEMO ?=
# Any Python from 3.10 on will do for the driver.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
RUNTIMES := .venv-runtimes
KILN := $(VENV)/bin/kiln

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: env
env: $(VENV)/.run ## the driver's Python environment in .venv
.PHONY: dev
dev: $(VENV)/.dev $(RUNTIMES)/.installed ## the same with what tests need
.PHONY: runtimes
runtimes: $(RUNTIMES)/.installed ## LiteRT and MediaPipe outside the images, in .venv-runtimes (0.6 GB)

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "kiln needs Python 3.10 or later; name one with PYTHON=" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "The venv module is missing: install your system's python3-venv package." >&2; exit 2; }

$(VENV)/.run: $(VENV)/bin/python scripts/requirements.lock pyproject.toml
	@echo "env: installing the driver's locked requirements"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r scripts/requirements.lock
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run scripts/requirements-dev.lock
	@echo "env: installing the locked test requirements"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r scripts/requirements-dev.lock
	@touch $@

# An environment of its own: what MediaPipe pins and pulls in (OpenCV, matplotlib) stays away from
# the driver's.
$(RUNTIMES)/.installed: scripts/requirements-runtimes.lock
	@test -n "$(PYTHON)" || { echo "kiln needs Python 3.10 or later; name one with PYTHON=" >&2; exit 2; }
	@echo "runtimes: installing today's LiteRT and MediaPipe from their lock"
	@$(PYTHON) -m venv --clear $(RUNTIMES) || { echo "The venv module is missing: install your system's python3-venv package." >&2; exit 2; }
	@$(RUNTIMES)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r scripts/requirements-runtimes.lock
	@touch $@

.PHONY: engine
engine: env ## make sure a container engine answers (installs docker.io as root on Debian/Ubuntu)
	@scripts/engine.sh

.PHONY: sample
sample: env engine ## convert the embedded sample models into dist/, signed
	@$(KILN) build --samples --dist $(DIST) --jobs $(JOBS)

.PHONY: build-all
build-all: env engine ## convert every recipe under models/ into dist/, signed
	@$(KILN) build --dist $(DIST) --jobs $(JOBS)

.PHONY: verify
verify: env ## check signatures, digests and file lists in dist/
	@$(KILN) verify $(DIST)

.PHONY: images
images: env engine ## build the sealed images, if the engine does not hold them
	@$(KILN) images build

.PHONY: images-verify
images-verify: env engine ## rebuild the images without any cache and compare with the lock
	@$(KILN) images verify

.PHONY: sbom
sbom: env ## write what is in the images, docker/*/sbom.cdx.json
	@$(KILN) images sbom

.PHONY: compose-build
compose-build: env engine ## build the same Dockerfiles with docker compose, for interactive shells
	@$(KILN) images context
	@if docker compose version >/dev/null 2>&1; then compose="docker compose"; else compose=docker-compose; fi; \
	for image in base odapi modelmaker; do $$compose build $$image || exit 1; done

.PHONY: lint
lint: dev ## ruff and strict mypy
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

.PHONY: unit
unit: dev ## fast tests, no engine needed
	@$(VENV)/bin/pytest -q -m "not integration"

.PHONY: test
test: dev lint ## everything CI runs; without an engine the integration tests are skipped, with the reason
	@scripts/engine.sh || echo "make test: no engine, so the integration tests will be skipped"
	@$(VENV)/bin/pytest -q -n $(TESTS) --dist loadfile

.PHONY: test-tools
test-tools: env ## a browser, MediaPipe's system libraries and cosign, for the tests that need them (root, Debian or Ubuntu)
	@scripts/test-tools.sh

.PHONY: picture
picture: dev ## draw docs/detections.png from the sample's artefacts in dist/
	@$(VENV)/bin/python scripts/picture.py --dist $(DIST)

.PHONY: train
train: env engine ## train a sample's weights again, in its image: make train SAMPLE=name OUT=folder
	@$(VENV)/bin/python scripts/train_sample.py $(SAMPLE) --out $(OUT)

.PHONY: cpu-check
cpu-check: env engine ## the samples' bytes natively and on two emulated CPUs (takes a while)
	@$(VENV)/bin/python scripts/cpu_check.py --control

.PHONY: reproduce-demo
reproduce-demo: dev engine ## the samples made again, byte for byte, from a bundle: no store, images or network
	@$(VENV)/bin/python scripts/reproduce_demo.py $(DEMO)

.PHONY: bench
bench: dev engine ## kiln against the hand-run way, side by side in one run
	@$(VENV)/bin/python scripts/bench.py

.PHONY: lock
lock: env ## resolve all locks again (needs uv; Debian packages need apt)
	scripts/lock-debian.sh
	scripts/lock-python.sh
	scripts/lock-driver.sh

.PHONY: doctor
doctor: env ## what kiln needs of this machine
	@$(KILN) doctor

.PHONY: clean
clean: env ## remove what killed runs left behind
	@$(KILN) clean
