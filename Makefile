# Everything runs from .venv, which `make install` builds once; a changed pyproject.toml builds it again.
PYTHON ?= python3
CONFIG ?=
BIN := .venv/bin
STAMP := .venv/.installed
PYTEST_ARGS ?=
GPU_CHECK_ARGS ?=
BENCH_ARGS ?=
SOAK_ARGS ?=

.PHONY: help install kernels serve test test-all check bench gpu-check demo-cluster soak
.DEFAULT_GOAL := help

help: ## what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

install: $(STAMP) ## .venv with all that serving and testing need

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Python %d.%d is too old: install 3.11 or newer, or name one: make install PYTHON=python3.12" % v[:2])'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo 'python3 has no venv module: install it (Debian: apt install python3-venv)' >&2; exit 1; }
	@echo 'installing into .venv (some minutes the first time)'
	@# compat: else a script beside a checkout that is called baton would import the folder as `baton`
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable '.[dev]'
	@$(BIN)/python -m workers.model.cpu.native
	@touch $@

KERNELS := .venv/.kernels
kernels: $(KERNELS) ## Triton, to test and compile the kernels of a GPU without one (1 GB)

$(KERNELS): $(STAMP)
	@echo 'installing Triton (1 GB)'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable '.[kernels]'
	@touch $@

serve: install ## a cluster on this machine until Ctrl-C: make serve CONFIG=cluster.yaml
	@exec $(BIN)/baton serve $(CONFIG)

# Tests of one process run side by side; those that start a cluster, one after the other. 5: PYTEST_ARGS leave none.
SIDE_BY_SIDE := -n logical --maxprocesses 4 --dist worksteal

# Tests of the chart skip where npm cannot bring it either.
.PHONY: helm manifests
helm: install
	@$(BIN)/python -m tools.get_helm --brief >/dev/null || true

MANIFESTS ?= build/manifests
manifests: helm ## the chart as plain YAML, a file for each of helm/baton/ci: make manifests MANIFESTS=folder
	@$(BIN)/python -m tools.manifests $(MANIFESTS)

# Tests of the GPU's kernels skip where Triton cannot be had.
.PHONY: kernels-or-not
kernels-or-not: install
	@$(MAKE) --no-print-directory kernels || echo 'Triton cannot be had: tests of the kernels of a GPU skip'

test: helm kernels-or-not ## all tests but the slow ones
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m 'not slow and not cluster' $(PYTEST_ARGS) || test $$? = 5
	$(BIN)/python -m pytest -m 'not slow and cluster' $(PYTEST_ARGS) || test $$? = 5

test-all: helm kernels-or-not ## all tests
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m 'not cluster' $(PYTEST_ARGS) || test $$? = 5
	$(BIN)/python -m pytest -m cluster $(PYTEST_ARGS) || test $$? = 5

check: install ## format, lint, types, floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/test_floors.py tests/unit/test_generated.py

bench: install ## the figures that the README quotes, an hour; some minutes: make bench BENCH_ARGS=--quick
	@for name in engine handoff interference ingress startup goodput; do \
		echo "== $$name"; $(BIN)/python -m bench.$$name $(BENCH_ARGS) || exit 1; done

gpu-check: install ## what only a GPU can show, in under 8 minutes (docs/gpu.md); skips by name without one
	@$(BIN)/python -m bench.gpu_check $(GPU_CHECK_ARGS)

demo-cluster: install ## `ray up` onto hosts made of namespaces on this machine, a host cut off, all gone again (root; 6 min)
	@$(BIN)/python -m tools.demo_cluster

soak: install ## 30 minutes of load while every kind of process is killed, all answers checked: make soak SOAK_ARGS='--minutes 5'
	@$(BIN)/python -m tools.soak $(if $(CONFIG),--config $(CONFIG)) $(SOAK_ARGS)
