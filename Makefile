# Everything a person or CI does here is a target of this file; `make` alone lists them.
# The environment is made on first use and again when pyproject.toml changes.

PYTHON ?= python3
# Further arguments of a target's program: make test ARGS='tests/kv -x'
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WHEEL_CHECK := build/wheel-check
COVERAGE := build/coverage

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv run cluster test tools lint format wheel bench fuzz litmus mutate sim mutants crash crash-real nemesis coverage coverage-core coverage-storage clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

venv: $(STAMP) ## Make .venv with everything for running, testing and linting
	@echo "$(VENV) is ready"

$(STAMP): pyproject.toml
	@command -v '$(PYTHON)' > /dev/null || { \
	  echo "rafter needs Python 3.11 or newer, and there is no '$(PYTHON)'. Name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "rafter needs Python 3.11 or newer; '$(PYTHON)' is $$('$(PYTHON)' --version 2>&1). Name another: make PYTHON=python3.12" >&2; exit 1; }
	@'$(PYTHON)' -c 'import ensurepip, venv' 2> /dev/null || { \
	  echo "'$(PYTHON)' cannot make environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Making $(VENV) (once; later runs reuse it)"
	@'$(PYTHON)' -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

run: $(STAMP) ## Start a server on 127.0.0.1:7379 in the foreground (Ctrl-C stops it)
	@exec $(BIN)/rafterd --banner $(ARGS)

cluster: $(STAMP) ## Start three nodes on this machine in the foreground, to try failover
	@exec $(BIN)/python -m rafterd.local_cluster $(ARGS)

# All tests take three processes: many wait for nodes or for the clock. Those that are chosen run in
# one, which may have the terminal (--pdb).
# They start Python hundreds of times: much faster from bytecode, whatever the environment says.
test: export PYTHONDONTWRITEBYTECODE :=
# The first time, pytest rewrites the assertions of all modules, which takes half a minute of CPU.
# Each of the three processes would do it for itself, all at once. What is wrong shows in the run.
REWRITE = printf '%s\n' tests/*/ | xargs -P 2 -n 6 $(BIN)/python -m pytest --collect-only -qq > /dev/null 2>&1
test: $(STAMP) tools ## Run all tests
	$(if $(ARGS),,@$(REWRITE) || true)
	$(BIN)/python -m pytest -rs $(or $(ARGS),--numprocesses 3)

# Some tests drive programs that are not Python packages. A machine of CI is given them; on any
# other machine the tests that miss one are skipped, and say so.
tools:
	@if [ "$$CI" = true ] && [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	  missing=; \
	  command -v etcd > /dev/null || missing="$$missing etcd-server"; \
	  command -v redis-cli > /dev/null || missing="$$missing redis-tools"; \
	  command -v redis-server > /dev/null || missing="$$missing redis-server"; \
	  command -v strace > /dev/null || missing="$$missing strace"; \
	  command -v systemd-analyze > /dev/null || missing="$$missing systemd"; \
	  if [ -n "$$missing" ]; then \
	    echo "Installing$$missing"; \
	    { apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
	      apt-get install -y -qq --no-install-recommends $$missing; } > /dev/null \
	      || echo "Cannot install$$missing: the tests that need them are skipped" >&2; \
	  fi; \
	fi

lint: $(STAMP) ## Check format, style, types, the direction of imports, and that the core can be compiled
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m bench.core_compiled
	$(BIN)/lint-imports

format: $(STAMP) ## Format the code and repair what can be repaired
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: $(STAMP) ## Build dist/*.whl and check that it works in an environment of its own
	rm -rf dist $(WHEEL_CHECK)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	'$(PYTHON)' -m venv $(WHEEL_CHECK)
	$(WHEEL_CHECK)/bin/python -m pip install --quiet dist/*.whl
	cd $(WHEEL_CHECK) && bin/rafterd config check '$(CURDIR)/deploy/rafterd.toml'
	cd $(WHEEL_CHECK) && bin/rafter-cli version
	cd $(WHEEL_CHECK) && bin/python -c 'import rafter_core, rafter_storage, rafter_transport, rafter_kv, rafterd; \
	  from importlib.metadata import files; \
	  assert sum(str(path).endswith("py.typed") for path in files("rafter")) == 5'
	@ls dist

bench: $(STAMP) ## Measure core, log, transport and snapshots, then one node and three nodes with redis-benchmark
	$(BIN)/python -m bench.core
	$(BIN)/python -m bench.storage
	$(BIN)/python -m bench.transport
	$(BIN)/python -m bench.snapshots
	$(BIN)/python -m bench $(ARGS)

litmus: $(STAMP) ## Race the sleeps and wake-ups of the rings a million times, two processes
	$(BIN)/python -m tests.transport.litmus $(ARGS)

fuzz: $(STAMP) ## Feed 200,000 inputs to each decoder of what comes from other processes or from disk
	$(BIN)/python -m tests.fuzz $(ARGS)

mutate: $(STAMP) ## Count the changes of the core's main modules that its tests notice
	$(BIN)/python -m tests.mutation $(ARGS)

SEEDS ?= 1000
FROM ?= 1
sim: $(STAMP) ## Simulate SEEDS=1000 clusters and their faults, from seed FROM=1 on
	$(BIN)/python -m tests.sim --seeds $(SEEDS) --from $(FROM) $(ARGS)

mutants: $(STAMP) ## Put known bugs into the product, one at a time; the tests must find each
	$(BIN)/python -m tests.mutants $(ARGS)

STATES ?= 5000
crash: $(STAMP) ## Recover storage from STATES=5000 states that crashes may leave of a disk
	$(BIN)/python -m tests.crash.enumeration --states $(STATES) $(ARGS)

KILLS ?= 200
crash-real: $(STAMP) tools ## Kill a real server at KILLS=200 syncs, writes and renames; lose nothing
	$(BIN)/python -m tests.crash.real --kills $(KILLS) $(ARGS)

MINUTES ?= 10
SEED ?= 1
nemesis: export PYTHONDONTWRITEBYTECODE :=
nemesis: $(STAMP) tools ## Judge real clusters under faults for MINUTES=10, seed SEED=1; pages in build/nemesis
	$(BIN)/python -m tests.nemesis --minutes $(MINUTES) --seed $(SEED) $(ARGS)

coverage: coverage-core coverage-storage ## Fail if tests leave more than 2 % of the branches of core or storage aside

coverage-core: TESTS := $(wildcard tests/core tests/paper tests/replay)
coverage-storage: TESTS := $(wildcard tests/storage tests/crash)
coverage-core coverage-storage: coverage-%: $(STAMP)
	@mkdir -p $(COVERAGE)
	$(BIN)/python -m coverage run --branch --source rafter_$* --data-file $(COVERAGE)/$* \
	  -m pytest $(TESTS) $(ARGS)
	@$(BIN)/python -m coverage report --data-file $(COVERAGE)/$* --show-missing --skip-covered
	@$(BIN)/python -m coverage json --quiet --data-file $(COVERAGE)/$* -o $(COVERAGE)/$*.json
	@$(BIN)/python -c 'import json, sys; totals = json.load(open("$(COVERAGE)/$*.json"))["totals"]; \
	  percent = 100 * totals["covered_branches"] / totals["num_branches"]; \
	  print(f"branches of rafter_$* covered: {percent:.1f} %"); sys.exit(percent < 98)'

clean: ## Remove caches and built files (not .venv, not data)
	rm -rf dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
