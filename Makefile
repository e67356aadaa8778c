# `make help` lists the targets: every line with two hashes behind a target is one.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Those that Airflow and torch support, the newest first: the locks hold for all of them. One that is here can make an
# environment (Debian packs that apart); of pyenv's, none needs to be switched on.
SUPPORTED := 3.13 3.12 3.11
PYTHONS := $(shell for version in $(SUPPORTED); do \
	for python in python$$version "$$HOME"/.pyenv/versions/$$version*/bin/python$$version; do \
		"$$python" -c 'import ensurepip, venv' 2>/dev/null && { command -v "$$python"; break; }; \
	done; done || true)
PYTHON ?= $(firstword $(PYTHONS))
UV := .tools/bin/uv
UV_LOCK := images/requirements.uv.lock
EXTRACTOR := images/extractor/.venv
CONTROL := .venv
OURS := dags plugins images reader tests

# Where a container sets it, each of the many processes would compile again the thousand modules that Airflow loads.
unexport PYTHONDONTWRITEBYTECODE

# An environment is brought up to date when a lock, a project file or the Python has changed, and only then.
CONTROL_READY := $(CONTROL)/.ready-$(shell { $(PYTHON) -V || true; cat requirements.lock pyproject.toml images/*/pyproject.toml reader/pyproject.toml; } 2>/dev/null | sha256sum | cut -c1-16)
EXTRACTOR_READY := $(EXTRACTOR)/.ready-$(shell { $(PYTHON) -V || true; cat images/extractor/requirements.lock images/*/pyproject.toml reader/pyproject.toml images/resnet101-detectron2/detectron2/*; } 2>/dev/null | sha256sum | cut -c1-16)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

# $(1): what is done; $(2): the commands that do it. With the time so far whenever ten seconds have passed.
define telling
@echo "$(STEP)$(1)"; SECONDS=0; while sleep 10 >/dev/null 2>&1; do echo "  $$SECONDS s …"; done & teller=$$!; trap "kill $$teller" EXIT; \
	$(2)
endef

.PHONY: setup
setup: $(CONTROL_READY) $(EXTRACTOR_READY) ## build both Python environments from their locks

$(UV): $(UV_LOCK)
	@version=$$("$(PYTHON)" -c 'import sys; print(*sys.version_info[:2], sep=".")') && [[ " $(SUPPORTED) " = *" $$version "* ]] || { \
		echo "Python $${version:-, which is not there,} will not do: one of $(SUPPORTED) with its venv is needed;" \
			"call make with PYTHON=/path/to/it" >&2; exit 1; }
	@$(PYTHON) -m venv .tools
	@.tools/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement $(UV_LOCK)
	@touch $@

# $(1): made again when it is another Python's, kept otherwise.
define environment
[ "$$($(1)/bin/python -V 2>/dev/null)" = "$$($(PYTHON) -V)" ] || $(UV) venv --quiet --clear --python $(PYTHON) $(1)
endef

# Of the two detectors their specs: what computes is not installed here.
$(CONTROL_READY): | $(UV)
	$(call telling,the Python environment of the control plane ($(CONTROL)),\
	{ $(call environment,$(CONTROL)); }; \
	$(UV) pip sync --quiet --require-hashes --python $(CONTROL)/bin/python requirements.lock; \
	$(UV) pip install --quiet --python $(CONTROL)/bin/python --no-deps --no-build-isolation -e . -e images/extractor \
		-e images/resnet101-detectron2 -e images/resnext101-mmf -e reader; \
	rm -f $(@D)/.ready-*; touch $@)

# In its own folder, since its pyproject says how mmf is built.
$(EXTRACTOR_READY): | $(UV)
	$(call telling,the Python environment of the detectors ($(EXTRACTOR)),\
	{ $(call environment,$(EXTRACTOR)); }; \
	(cd images/extractor && ../../$(UV) pip sync --quiet --require-hashes --python ../../$(EXTRACTOR)/bin/python requirements.lock); \
	$(UV) pip install --quiet --python $(EXTRACTOR)/bin/python --no-deps --no-build-isolation \
		./images/resnet101-detectron2/detectron2 -e images/extractor -e images/resnet101-detectron2 -e images/resnext101-mmf -e reader; \
	rm -f $(@D)/.ready-*; touch $@)

.PHONY: demo
demo: STEP := 1 of 5: # so that it ends with a space
demo: setup ## run two nights with both detectors on this machine (IMAGES=folder: your images; GIVEN=coco.json: their boxes; KEEP=1: leave it running)
	@$(CONTROL)/bin/python -m featurise_demo up $(if $(IMAGES),--images "$(IMAGES)") $(if $(GIVEN),--given "$(GIVEN)") $(if $(KEEP),--keep)

.PHONY: demo-down
demo-down: setup ## end what `make demo KEEP=1` left running
	@$(CONTROL)/bin/python -m featurise_demo down

# A group of tests has one worker (tests/conftest.py); in the order of collection, in which the longest come first.
# Threads that wait for each other sleep: by default they spin, which takes the core from the other worker's.
PYTEST := OMP_WAIT_POLICY=passive
SIDE_BY_SIDE := --dist loadgroup --no-loadscope-reorder
TEST_EXTRACTOR = $(PYTEST) $(EXTRACTOR)/bin/pytest -c images/extractor/pyproject.toml --rootdir . $(SIDE_BY_SIDE)
TEST_CONTROL = $(PYTEST) $(CONTROL)/bin/pytest $(SIDE_BY_SIDE)
UNIT := -m "not slow and not browser and not containers and not cluster"

.PHONY: check
check: setup ## lint, types, layers and every unit test: a few minutes, beside one another
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint unit

.PHONY: unit
unit: setup
	$(TEST_EXTRACTOR) -n 2 $(UNIT)
	$(TEST_CONTROL) -n 2 $(UNIT)

.PHONY: check-pythons
check-pythons: $(UV) ## the unit tests on every supported Python that is here
	for python in $(PYTHONS); do \
		$$python -V; folder=.cache/pythons/$${python##*/}; \
		$(MAKE) --no-print-directory PYTHON=$$python CONTROL=$$folder/control EXTRACTOR=$$folder/extractor unit; done

.PHONY: test
test: setup system ## lint, then every test (some real servers, processes and a browser)
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint
	@mkdir -p .cache # the images are built beside the other tests; theirs wait for them
	BASE_IMAGE=$${BASE_IMAGE:-debootstrap} images/build >.cache/images.log 2>&1 & builder=$$!; failed=0; \
	$(TEST_EXTRACTOR) -n 2 || failed=$$?; \
	$(TEST_CONTROL) -n 4 || failed=$$?; \
	wait $$builder || true; exit $$failed

.PHONY: drills
drills: setup ## kill every part of the platform while nights run (SEED=7 KILLS=24); ends well if nothing is lost or left
	$(CONTROL)/bin/python tests/drills/soak.py $(if $(SEED),--seed $(SEED)) $(if $(KILLS),--kills $(KILLS))

.PHONY: pages-load
pages-load: setup ## how long each monitoring page takes at ten million images (IMAGES=10_000_000 ATTEMPTS=1_000_000)
	PYTHONPATH=tests/dags $(CONTROL)/bin/python tests/drills/registry_load.py $(or $(IMAGES),10_000_000) $(or $(ATTEMPTS),1_000_000)

.PHONY: pages-cost
pages-cost: setup ## what looking at the monitoring pages costs scheduler and triggerer, as a ratio: some ten minutes
	PYTHONPATH=tests/dags $(CONTROL)/bin/python tests/drills/pages_beside.py

.PHONY: test-cluster
test-cluster: setup ## a night on a real cluster (KUBECONFIG=… IMAGE=… S3_ENDPOINT=…; says what is missing)
	KUBECONFIG="$(KUBECONFIG)" IMAGE="$(IMAGE)" S3_ENDPOINT="$(S3_ENDPOINT)" $(CONTROL)/bin/python tests/cluster

.PHONY: chart-check
chart-check: setup ## the chart with Airflow's own in it (CHART=airflow-1.22.0.tgz VALUES="yours.yaml"), before it meets a cluster
	$(CONTROL)/bin/python tests/helm $(CHART) $(VALUES)

# What the tests need beside Python: a browser for the Airflow UI, and what builds and runs images without a registry.
NEEDED := chromium podman runc debootstrap
.PHONY: system
system: prometheus
	@missing=$$(for tool in $(NEEDED); do command -v $$tool >/dev/null || [ -x /usr/sbin/$$tool ] || echo $$tool; done); \
	[ -z "$$missing" ] || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
		else echo "the tests need more; run: sudo apt-get install -y" $$missing >&2; exit 1; fi; }

# Debian's package, unpacked and not installed: nothing is started by it, and it needs no rights.
PROMETHEUS := .cache/prometheus
.PHONY: prometheus
prometheus:
	@command -v prometheus >/dev/null || [ -x $(PROMETHEUS)/usr/bin/prometheus ] || { \
		mkdir -p $(PROMETHEUS) && cd $(PROMETHEUS) && \
		{ apt-get download -qq prometheus 2>/dev/null || { apt-get update -qq && apt-get download -qq prometheus; }; } && \
		dpkg -x prometheus_*.deb . ; } || { \
		echo "the tests need Prometheus; install it, or let apt-get download it" >&2; exit 1; }

.PHONY: lint
lint: setup types ## ruff, codespell, mypy --strict, import-linter
	$(CONTROL)/bin/ruff check $(OURS)
	$(CONTROL)/bin/ruff format --check $(OURS)
	git ls-files | grep -Ev '\.(png|jpg|webp|npz|lock)$$' | xargs $(CONTROL)/bin/codespell
	$(CONTROL)/bin/lint-imports

.PHONY: types types-control types-extractor
types: types-control types-extractor

# A run for each folder of tests: each has a conftest of its own. What options or an environment of their own have
# checked is kept apart: mypy would take it for stale, and check it all again.
types-control: setup
	$(CONTROL)/bin/mypy
	for folder in cluster dags drills e2e featurise helm images kubernetes repository; do \
		$(CONTROL)/bin/mypy --config-file tests/mypy.ini --cache-dir .mypy_cache/tests tests/$$folder; done

types-extractor: setup
	cd images/extractor && ../../$(EXTRACTOR)/bin/mypy
	for folder in extractor resnet101 resnext101; do \
		$(EXTRACTOR)/bin/mypy --config-file tests/mypy.ini --cache-dir images/extractor/.mypy_cache/tests tests/$$folder; done

.PHONY: audit
audit: setup ## known advisories against every locked package (asks osv.dev, or the mirror OSV_URL)
	$(CONTROL)/bin/python images/audit.py

.PHONY: format
format: setup ## let ruff format and mend what it can
	$(CONTROL)/bin/ruff check --fix $(OURS)
	$(CONTROL)/bin/ruff format $(OURS)

.PHONY: bench
bench: setup ## measure both detectors, the registry, discovery, HDF5, exports and the launcher; prints ratios
	$(EXTRACTOR)/bin/python -m extractor.bench
	$(CONTROL)/bin/python -m featurise_demo.bench
	$(CONTROL)/bin/python -m featurise_demo.export_bench
	PYTHONPATH=tests/featurise/helpers $(CONTROL)/bin/python tests/kubernetes/bench.py

.PHONY: lock
lock: $(UV) ## resolve both environments again
	cd images/extractor && ../../$(UV) lock --quiet --upgrade && ../../$(UV) export --quiet --format requirements.txt --no-header --no-emit-local --all-extras -o requirements.lock
	$(UV) lock --quiet --upgrade && $(UV) export --quiet --format requirements.txt --no-header --no-emit-local -o requirements.lock
	cd images/extractor && ../../$(UV) export --quiet --frozen --format requirements.txt --no-header --no-emit-local --no-default-groups --all-extras -o requirements.images.lock
	cd images/extractor && ../../$(UV) export --quiet --frozen --format requirements.txt --no-header --no-emit-local --only-group build -o requirements.build.lock
	$(UV) export --quiet --frozen --format requirements.txt --no-header --no-emit-local --no-default-groups -o images/airflow/requirements.lock
	echo uv | $(UV) pip compile --quiet --upgrade --generate-hashes --no-header --no-annotate - -o $(UV_LOCK)

.PHONY: clean
clean: ## remove environments, caches and the demo's state
	rm -rf .venv .tools $(EXTRACTOR) .demo .featurise .cache .mypy_cache images/extractor/.mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
