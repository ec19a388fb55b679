# tflite-kiln: `make help` lists the targets.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Models at a time; kiln knows how many the machine has room for.
JOBS ?=
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
# Engines of `make engines`; all of them when it is empty.
ENGINES ?=
STORM_MINUTES ?= 60
CASE ?=
# Options of `make storm`, such as --seed and --family.
STORM ?=
# Any Python from 3.10 on will do for the driver.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
KILN := $(VENV)/bin/kiln
# Developers' programs, each a module of a package beside kiln's; some share code with the stages.
PROGRAM := PYTHONPATH=scripts:docker $(VENV)/bin/python -m

##@ Use

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^##@ / {printf "%s%s\n", gap, substr($$0, 5); gap = "\n"} \
		/^[a-z][a-z-]*:.*## / {printf "  %-17s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: sample
sample: env engine ## convert the embedded sample models into DIST, signed
	@$(KILN) build --samples --dist $(DIST) $(if $(JOBS),--jobs $(JOBS))

.PHONY: build
build: env engine ## convert one model into DIST, signed: MODEL=name
	@$(KILN) build "$$MODEL" --dist $(DIST)

.PHONY: build-all
build-all: env engine ## convert every recipe of models/ into DIST, signed
	@$(KILN) build --dist $(DIST) $(if $(JOBS),--jobs $(JOBS))

.PHONY: verify
verify: env ## check signatures and files of DIST (POLICY: a trust file)
	@$(KILN) verify $(DIST) $(TRUSTED)

.PHONY: doctor
doctor: env ## what kiln needs of this machine, and whether it is there
	@$(KILN) doctor

.PHONY: clean
clean: env ## remove what killed runs left behind
	@$(KILN) clean

.PHONY: env
env: $(VENV)/.run ## kiln's Python environment, in .venv

.PHONY: engine
engine: env ## start a container engine; install one as root on Debian
	@scripts/setup/engine.sh

.PHONY: images
images: env engine ## build the sealed images that the engine does not hold
	@$(KILN) images build

.PHONY: images-save
images-save: env engine ## write the sealed images (or IMAGE) as files into IMAGES
	@$(KILN) images save $(IMAGE) -o $(IMAGES)

.PHONY: images-load
images-load: env engine ## load the files of IMAGES after checking them by the lock
	@find $(IMAGES) -name '*.tar' -type f -print0 | xargs -0 $(KILN) images load

.PHONY: compose-build
compose-build: env engine ## build the Dockerfiles with compose, for interactive shells
	@$(KILN) images context
	@if docker compose version >/dev/null 2>&1; then compose="docker compose"; else compose=docker-compose; fi; \
	for image in base odapi modelmaker device; do $$compose build $$image || exit 1; done

##@ Release

.PHONY: matrix
matrix: env ## the models as a job matrix for GitHub (make --silent)
	@echo "matrix=$$($(KILN) plan --github-matrix)"

.PHONY: collect
collect: env ## join the dist folders of PARTS; release files into ASSETS
	@$(KILN) collect $(PARTS)/* --dist $(DIST) --assets $(ASSETS) $(TRUSTED)

.PHONY: trust-file
trust-file: env ## write TRUST from PUBLIC_KEY, or from IDENTITY and ISSUER
	@$(PROGRAM) releases.trust_file $(TRUST)

.PHONY: notes
notes: env ## the notes of the release in DIST (make --silent)
	@$(KILN) notes $(DIST)

.PHONY: publish
publish: ## publish ASSETS and NOTES on GitHub as KILN_RELEASE
	@scripts/releases/publish-release.sh "$$KILN_RELEASE" $(ASSETS) $(NOTES)

.PHONY: fetch-release
fetch-release: ## download the release TAG (the latest) into RELEASE
	@scripts/releases/fetch-release.sh $(RELEASE) "$$TAG"

.PHONY: reproduce
reproduce: env engine ## make RELEASE again and compare; results in REPRODUCED
	@mkdir -p $(REPRODUCED)
	@$(KILN) verify $(RELEASE)/tflite-kiln-* $(TRUSTED)
	@$(KILN) reproduce $(RELEASE)/tflite-kiln-* $(TRUSTED) $(REPRODUCE) --json > $(REPRODUCED)/events.jsonl

.PHONY: reproduce-report
reproduce-report: env ## write a report and a badge of `make reproduce`
	@$(PROGRAM) releases.reproduce_report $(REPRODUCED)/events.jsonl --out $(REPRODUCED) --title "$$TAG"

.PHONY: reproduce-issue
reproduce-issue: ## open or close a GitHub issue by that report
	@scripts/releases/reproduce-issue.sh "$$RESULT" $(REPRODUCED)/report.md

# Files that an earlier build left would get into the package.
.PHONY: wheel
wheel: env ## build the package that pip installs, in dist-wheel/
	@rm -rf build/lib build/bdist.* dist-wheel
	@umask 022 && SOURCE_DATE_EPOCH=315532800 $(VENV)/bin/python -m pip wheel --quiet --disable-pip-version-check \
	--no-deps --no-build-isolation --no-index --wheel-dir dist-wheel .
	@ls dist-wheel/*.whl

##@ Prove

.PHONY: lint
lint: dev lint-markers lint-workflows ## ruff, strict mypy, import contracts, lint-*
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@PYTHONPATH=docker $(VENV)/bin/lint-imports --no-cache

# Tracked or not, whatever .gitignore does not name; needs no repository, so an archive will do.
.PHONY: lint-markers
lint-markers: ## refuse unresolved merges in any file
	@git grep --no-index --exclude-standard -nIE '^(<{7}|[|]{7}|>{7})( |$$)'; \
	test $$? -eq 1 || { echo "lint: an unresolved merge, listed above (or git is missing)" >&2; exit 1; }

# zizmor would also ask GitHub about actions if it had a token; what it can tell offline is enough.
.PHONY: lint-workflows
lint-workflows: dev ## actionlint and zizmor over .github/, shellcheck over *.sh
	@$(VENV)/bin/actionlint -shellcheck $(VENV)/bin/shellcheck
	@$(VENV)/bin/zizmor --offline --quiet --persona auditor .github
	@$(VENV)/bin/shellcheck scripts/*/*.sh .ci/run

.PHONY: unit
unit: dev ## fast tests, no engine needed
	@$(VENV)/bin/pytest -q -m "not integration"

.PHONY: test
test: test-offer dev lint ## all that CI runs; no engine, no integration tests
	@scripts/setup/engine.sh || echo "make test: no engine, so the integration tests will be skipped"
	@$(VENV)/bin/pytest -q -n $(TESTS) --dist loadfile --no-loadscope-reorder

.PHONY: nightly
nightly: dev engine ## tests at real size (an hour, 8 GB of memory)
	@$(VENV)/bin/pytest -q -m nightly tests

.PHONY: test-offer
test-offer: ## say which tests want `make test-tools`
	@scripts/setup/test-tools.sh --offer

.PHONY: images-verify
images-verify: env engine ## build the images without a cache, compare with the lock
	@$(KILN) images verify

.PHONY: cpu-check
cpu-check: env engine ## the samples' bytes here and on two emulated CPUs (slow)
	@$(PROGRAM) proofs.cpu_check --control

.PHONY: runtime-table
runtime-table: env engine ## run the samples in other runtimes (3 GB of downloads)
	@$(PROGRAM) proofs.runtimes.table --docs docs/runtimes.md

.PHONY: reproducibility
reproducibility: env engine ## build under other circumstances and compare (an hour)
	@$(PROGRAM) proofs.reproducibility --docs docs/reproducibility.md

# Further options: make engines ENGINES="podman-5.4 --archives images"
.PHONY: engines
engines: dev ## try kiln on Debian's Dockers and Podmans (root; 15 min each)
	@$(PROGRAM) proofs.engines.table $(ENGINES) --docs docs/engines.md

.PHONY: reproduce-demo
reproduce-demo: dev engine ## make the samples again from one bundle, without network
	@$(PROGRAM) proofs.reproduce_demo $(DEMO)

# A failing case says which one it is: make storm CASE=family/name/seed
.PHONY: storm
storm: dev engine ## hostile cases at random for STORM_MINUTES (60)
	@PYTHONPATH=scripts:tests:tests/helpers $(VENV)/bin/python -m hostile.storm --minutes $(STORM_MINUTES) $(if $(CASE),--case $(CASE),--docs) $(STORM)

# Other sizes: PYTHONPATH=scripts:docker .venv/bin/python -m benchmarks.cluster --help
.PHONY: cluster-bench
cluster-bench: dev ## what a cluster costs besides the work (two hours)
	@$(PROGRAM) benchmarks.cluster

.PHONY: cluster-storm
cluster-storm: dev engine ## kill parts of a cluster at random moments, 50 times
	@$(PROGRAM) proofs.cluster_storm

.PHONY: bench
bench: dev engine ## time kiln beside the hand-written way
	@$(PROGRAM) benchmarks

##@ Maintain

.PHONY: dev
dev: $(VENV)/.dev ## env, with what tests need

.PHONY: test-tools
test-tools: env ## a browser, cosign and more for tests (root, Debian)
	@scripts/setup/test-tools.sh

.PHONY: lock
lock: dev ## update all locks to DATE (a week ago), say what changed
	@scripts/locks/lock.sh $(DATE)

.PHONY: lock-changes
lock-changes: env ## what changed in the locks since SINCE (the last commit)
	@$(PROGRAM) locks.lock_changes --since $(SINCE)

.PHONY: relock
relock: env engine ## build the images twice and record them in images.lock
	@$(KILN) images relock
	@$(PROGRAM) locks.lock_changes --since $(SINCE)

.PHONY: sbom
sbom: env ## list what is in the images, docker/*/sbom.cdx.json
	@$(KILN) images sbom

.PHONY: schema
schema: dev ## generate the .tflite tables again, from LiteRT's schema
	@$(PROGRAM) schemas.generate_tflite

.PHONY: pipeline-schema
pipeline-schema: env engine ## generate the pipeline.config tables again, from the image
	@$(PROGRAM) schemas.generate_pipeline

.PHONY: train
train: env engine ## train a sample's weights again: SAMPLE=name OUT=folder
	@$(PROGRAM) samples.train $(SAMPLE) --out $(OUT)

.PHONY: picture
picture: dev ## draw docs/detections.png from the samples in DIST
	@$(PROGRAM) samples.picture --dist $(DIST)

# Files of the environments.

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
	@echo "env: installing the locked requirements of $(REQUIREMENTS)" >&2
	@$(PIP_INSTALL) --require-hashes -r $(REQUIREMENTS)
	@PIP_CONFIG_FILE=/dev/null $(PIP_INSTALL) --isolated --no-build-isolation --no-index -e .
	@cksum < $(REQUIREMENTS) > $@

$(VENV)/.dev: $(VENV)/.run scripts/locks/requirements-dev.lock
	@test "$$(cat $<)" = "$$(cksum < $(REQUIREMENTS))" || { \
		echo "env: installing the locked requirements of $(REQUIREMENTS)" >&2; \
		$(PIP_INSTALL) --require-hashes -r $(REQUIREMENTS); }
	@touch $@
