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
# For releases; the workflows set these in the environment, where no shell reads them as code.
IMAGES ?= images
IMAGE ?=
PARTS ?= parts
ASSETS ?= assets
NOTES ?= notes.md
RELEASE ?= release
# Further options of `make reproduce`.
REPRODUCE ?=
REPRODUCED ?= reproduced
RESULT ?= success
# For locks.
DATE ?=
SINCE ?= HEAD
export MODEL TAG RESULT
TRUST ?= trust
POLICY ?=
TRUSTED = $(if $(POLICY),--policy $(POLICY))
# Options of `make reproduce-demo`, such as --keep-images.
DEMO ?=
STORM_MINUTES ?= 60
CASE ?=
# Options of `make storm`, such as --seed and --family.
STORM ?=
# Any Python from 3.10 on will do for the driver.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
RUNTIMES := .venv-runtimes
KILN := $(VENV)/bin/kiln
# Developers' programs, each a module of a package beside kiln's; some share code with the stages.
PROGRAM := PYTHONPATH=scripts:docker $(VENV)/bin/python -m

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

# `make dev` installs the test requirements, which include the driver's own, in the place of the
# driver's: one pip call, so pip's remarks on a user's configuration appear once. .run records
# which lock it was.
REQUIREMENTS = scripts/locks/requirements.lock
$(VENV)/.dev: REQUIREMENTS = scripts/locks/requirements-dev.lock
PIP_INSTALL = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps

$(VENV)/.run: $(VENV)/bin/python scripts/locks/requirements.lock pyproject.toml
	@echo "env: installing the locked requirements of $(REQUIREMENTS)"
	@$(PIP_INSTALL) --require-hashes -r $(REQUIREMENTS)
	@PIP_CONFIG_FILE=/dev/null $(PIP_INSTALL) --isolated --no-build-isolation --no-index -e .
	@cksum < $(REQUIREMENTS) > $@

$(VENV)/.dev: $(VENV)/.run scripts/locks/requirements-dev.lock
	@test "$$(cat $<)" = "$$(cksum < $(REQUIREMENTS))" || { \
		echo "env: installing the locked requirements of $(REQUIREMENTS)"; \
		$(PIP_INSTALL) --require-hashes -r $(REQUIREMENTS); }
	@touch $@

# An environment of its own: what MediaPipe pins and pulls in (OpenCV, matplotlib) stays away from
# the driver's.
# A link leads to somebody else's environment, which must not be emptied to make this one.
$(RUNTIMES)/.installed: scripts/locks/requirements-runtimes.lock
	@test ! -L $(RUNTIMES) || { echo "runtimes: $(RUNTIMES) is a link, and what it leads to is not up to date; remove the link" >&2; exit 2; }
	@test -n "$(PYTHON)" || { echo "kiln needs Python 3.10 or later; name one with PYTHON=" >&2; exit 2; }
	@echo "runtimes: installing today's LiteRT and MediaPipe from their lock"
	@$(PYTHON) -m venv --clear $(RUNTIMES) || { echo "The venv module is missing: install your system's python3-venv package." >&2; exit 2; }
	@$(RUNTIMES)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r scripts/locks/requirements-runtimes.lock
	@touch $@

.PHONY: engine
engine: env ## make sure a container engine answers (installs docker.io as root on Debian/Ubuntu)
	@scripts/setup/engine.sh

.PHONY: sample
sample: env engine ## convert the embedded sample models into dist/, signed
	@$(KILN) build --samples --dist $(DIST) --jobs $(JOBS)

.PHONY: build-all
build-all: env engine ## convert every recipe under models/ into dist/, signed
	@$(KILN) build --dist $(DIST) --jobs $(JOBS)

.PHONY: build
build: env engine ## convert one model into dist/, signed: make build MODEL=name
	@$(KILN) build "$$MODEL" --dist $(DIST)

.PHONY: verify
verify: env ## check signatures, digests and file lists in dist/ (POLICY: a trust file)
	@$(KILN) verify $(DIST) $(TRUSTED)

.PHONY: images
images: env engine ## build the sealed images, if the engine does not hold them
	@$(KILN) images build

.PHONY: images-save
images-save: env engine ## the sealed images (or IMAGE) as files in IMAGES, the same bytes from every engine
	@$(KILN) images save $(IMAGE) -o $(IMAGES)

.PHONY: images-load
images-load: env engine ## sealed images from the files below IMAGES, after a look at the lock
	@find $(IMAGES) -name '*.tar' -type f -print0 | xargs -0 $(KILN) images load

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
lint: dev lint-workflows ## ruff, strict mypy, which package imports which; and lint-workflows
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@PYTHONPATH=docker $(VENV)/bin/lint-imports --no-cache

# zizmor would also ask GitHub about actions if it had a token; what it can tell offline is enough.
.PHONY: lint-workflows
lint-workflows: dev ## actionlint and zizmor over .github/, shellcheck over the scripts
	@$(VENV)/bin/actionlint -shellcheck $(VENV)/bin/shellcheck
	@$(VENV)/bin/zizmor --offline --quiet --persona auditor .github
	@$(VENV)/bin/shellcheck scripts/*/*.sh .ci/run

.PHONY: unit
unit: dev ## fast tests, no engine needed
	@$(VENV)/bin/pytest -q -m "not integration"

.PHONY: test-offer
test-offer: ## to root: which tests would be skipped until `make test-tools` has run
	@scripts/setup/test-tools.sh --offer

.PHONY: test
test: test-offer dev lint ## everything CI runs; without an engine the integration tests are skipped, with the reason
	@scripts/setup/engine.sh || echo "make test: no engine, so the integration tests will be skipped"
	@$(VENV)/bin/pytest -q -n $(TESTS) --dist loadfile

.PHONY: test-tools
test-tools: env ## a browser, MediaPipe's system libraries and cosign, for the tests that need them (root, Debian or Ubuntu)
	@scripts/setup/test-tools.sh

# What a build before left would get into the package. The times of files say nothing.
.PHONY: wheel
wheel: env ## the package that pip installs, with stage code and image definitions, in dist-wheel/
	@rm -rf build/lib build/bdist.* dist-wheel
	@umask 022 && SOURCE_DATE_EPOCH=315532800 $(VENV)/bin/python -m pip wheel --quiet --disable-pip-version-check \
	--no-deps --no-build-isolation --no-index --wheel-dir dist-wheel .
	@ls dist-wheel/*.whl

.PHONY: picture
picture: dev ## draw docs/detections.png from the sample's artefacts in dist/
	@$(PROGRAM) samples.picture --dist $(DIST)

.PHONY: train
train: env engine ## train a sample's weights again, in its image: make train SAMPLE=name OUT=folder
	@$(PROGRAM) samples.train $(SAMPLE) --out $(OUT)

.PHONY: cpu-check
cpu-check: env engine ## the samples' bytes natively and on two emulated CPUs (takes a while)
	@$(PROGRAM) proofs.cpu_check --control

.PHONY: reproducibility
reproducibility: env engine ## samples and images again under varied circumstances; writes docs/reproducibility.md (an hour)
	@$(PROGRAM) proofs.reproducibility --docs docs/reproducibility.md

.PHONY: reproduce-demo
reproduce-demo: dev engine ## the samples made again, byte for byte, from a bundle: no store, images or network
	@$(PROGRAM) proofs.reproduce_demo $(DEMO)

# A failing case says which one it is: make storm CASE=family/name/seed
.PHONY: storm
storm: dev engine ## hostile stages, files and bad days at random for STORM_MINUTES (60), table into docs/security.md
	@PYTHONPATH=scripts:tests:tests/helpers $(VENV)/bin/python -m hostile.storm --minutes $(STORM_MINUTES) $(if $(CASE),--case $(CASE),--docs) $(STORM)

.PHONY: bench
bench: dev engine ## kiln against the hand-run way, side by side in one run
	@$(PROGRAM) benchmarks

.PHONY: lock
lock: dev ## take the newest packages of DATE (a week ago) into all locks, and say what changed
	@scripts/locks/lock.sh $(DATE)

.PHONY: lock-changes
lock-changes: env ## what is different in the locks since the last commit, or since SINCE
	@$(PROGRAM) locks.lock_changes --since $(SINCE)

.PHONY: relock
relock: env engine ## build all images twice, record them in docker/images.lock, and say what changed
	@$(KILN) images relock
	@$(PROGRAM) locks.lock_changes --since $(SINCE)

.PHONY: matrix
matrix: env ## what a release builds, as a job matrix for GitHub (make --silent matrix)
	@echo "matrix=$$($(KILN) plan --github-matrix)"

.PHONY: collect
collect: env ## one release of the dist folders in PARTS, and its flat files in ASSETS
	@$(KILN) collect $(PARTS)/* --dist $(DIST) --assets $(ASSETS) $(TRUSTED)

.PHONY: trust-file
trust-file: env ## a trust file in TRUST for the key in PUBLIC_KEY, or for IDENTITY and ISSUER
	@$(PROGRAM) releases.trust_file $(TRUST)

.PHONY: notes
notes: env ## the notes of the release in dist/ (make --silent notes)
	@$(KILN) notes $(DIST)

.PHONY: publish
publish: ## make a release on GitHub of ASSETS and NOTES, named KILN_RELEASE: a draft, then public
	@scripts/releases/publish-release.sh "$$KILN_RELEASE" $(ASSETS) $(NOTES)

.PHONY: fetch-release
fetch-release: ## a release on GitHub (the latest, or TAG), unpacked into the new folder RELEASE
	@scripts/releases/fetch-release.sh $(RELEASE) "$$TAG"

.PHONY: reproduce
reproduce: env engine ## make the release in RELEASE again (REPRODUCE: more options) and compare; results in REPRODUCED
	@mkdir -p $(REPRODUCED)
	@$(KILN) verify $(RELEASE)/tflite-kiln-* $(TRUSTED)
	@$(KILN) reproduce $(RELEASE)/tflite-kiln-* $(TRUSTED) $(REPRODUCE) --json > $(REPRODUCED)/events.jsonl

.PHONY: reproduce-report
reproduce-report: env ## what `make reproduce` found: a report and a badge in REPRODUCED
	@$(PROGRAM) releases.reproduce_report $(REPRODUCED)/events.jsonl --out $(REPRODUCED) --title "$$TAG"

.PHONY: reproduce-issue
reproduce-issue: ## tell GitHub's issues what the report says (RESULT=success closes the one that is open)
	@scripts/releases/reproduce-issue.sh "$$RESULT" $(REPRODUCED)/report.md

.PHONY: doctor
doctor: env ## what kiln needs of this machine
	@$(KILN) doctor

.PHONY: clean
clean: env ## remove what killed runs left behind
	@$(KILN) clean
