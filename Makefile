# Everything a developer or CI runs. Needs Python 3.11+ and make; the rest is installed into .venv, by hash, from
# requirements/dev.txt.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := .venv-demo
PHOENIX := .venv-phoenix
GENERATORS := .venv-generators
NODE := tests/generators/node_modules
AUDIT := .venv-audit
NEW_ENOUGH := import sys; sys.version_info >= (3, 11) or sys.exit("offramp needs Python 3.11 or newer, this is %s: make PYTHON=..." % sys.version.split()[0])
# More arguments for pytest: make test ARGS="-k journal -n 0"
ARGS ?=
# Tests wait more than they compute: half as many processes again as there are cores, up to four.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(4, 3 * (os.cpu_count() or 1) // 2))')
# How often make chaos kills.
KILLS ?= 500
# How often make cold-starts starts a site.
STARTS ?= 20
# How much make fuzz sends.
EXAMPLES ?= 500
ATTACKS ?= 100000
# In CI a skipped test fails: a missing tool may not turn the suite green.
ifdef CI
NO_SKIPS := -p tools.no_skips
endif
# If empty, setup installs the versions of constraints.txt without checking hashes: make setup LOCKED=
LOCKED ?= 1
# A recent pip also builds offramp itself at the pinned versions, through this variable.
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-phoenix chaos fuzz cold-starts check style prose types layers deps sizes docs fix bench audit lock clean
# A recipe that fails halfway leaves no stamp behind.
.DELETE_ON_ERROR:

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.setup-dev ## create .venv and install offramp with everything for development

$(BIN)/python:
	@$(PYTHON) -c '$(NEW_ENOUGH)'
	$(PYTHON) -m venv $(VENV)

# Order-only on python: its date is that of the base interpreter's build and does not require a new install.
$(VENV)/.setup-dev: pyproject.toml constraints.txt requirements/dev.txt | $(BIN)/python
ifneq ($(LOCKED),)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
else
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
endif
	@touch $@

$(VENV)/.setup-bench: $(VENV)/.setup-dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	@touch $@

# What a user has, not a developer; the environment for development will do where it is there.
$(DEMO)/.setup: pyproject.toml constraints.txt
	@$(PYTHON) -c '$(NEW_ENOUGH)'
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python -m pip install --quiet --constraint constraints.txt .
	@touch $@

demo: $(if $(wildcard $(VENV)/.setup-dev),,$(DEMO)/.setup) ## run the reference example, start to finish
	$(if $(wildcard $(VENV)/.setup-dev),$(BIN),$(DEMO)/bin)/python examples/reference_desk/demo.py

# worksteal: a few tests start real processes and take long; a free worker takes over the tests behind them.
test: setup $(GENERATORS)/.setup $(if $(shell command -v npm),$(NODE)/.setup) ## run the tests, in random order, in up to four processes
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(NO_SKIPS) $(ARGS)

$(GENERATORS)/.setup: constraints-generators.txt | $(BIN)/python
	$(PYTHON) -m venv $(GENERATORS)
	$(GENERATORS)/bin/python -m pip install --quiet --requirement constraints-generators.txt
	@touch $@

# Without npm, the test that needs it says so.
$(NODE)/.setup: tests/generators/package.json tests/generators/package-lock.json
	cd tests/generators && npm ci --no-audit --no-fund --silent
	@touch $@

$(PHOENIX)/.setup: constraints-phoenix.txt | $(BIN)/python
	$(PYTHON) -m venv $(PHOENIX)
	$(PHOENIX)/bin/python -m pip install --quiet --requirement constraints-phoenix.txt
	@touch $@

test-phoenix: setup $(PHOENIX)/.setup ## send the trace of a demoted run to a real Arize Phoenix, on loopback
	$(BIN)/python -m pytest -m phoenix -n 0 tests/phoenix $(NO_SKIPS) $(ARGS)

# SEED=7 repeats the same choices; without it a seed is drawn and printed.
chaos: setup ## kill a service at every crash point, then KILLS times at random; check every invariant
	$(BIN)/pytest -m "" -n 1 tests/chaos tests/leaving tests/engines/temporal/test_campaign.py tests/engines/temporal/test_gateway_kills.py
	$(BIN)/python -m tests.chaos.campaign --kills $(KILLS) $(if $(SEED),--seed $(SEED))
	$(BIN)/python -m tests.chaos.limits --kills $(KILLS) $(if $(SEED),--seed $(SEED))

# STARTS of each; the suite makes 2. Needs a machine that has its cores for itself.
cold-starts: setup ## start fresh FastAPI sites STARTS times; the first run must keep its budget
	COLD_STARTS=$(STARTS) $(BIN)/pytest -n 1 tests/examples/test_fastapi_desk.py

# SEED=7 as above; EXAMPLES per operation of the OpenAPI document, and ATTACKS with malformed requests.
fuzz: setup ## fuzz a served gateway: by its OpenAPI document, and with malformed requests
	$(BIN)/python -m tests.fuzz.longer --examples $(EXAMPLES) --attacks $(ATTACKS) $(if $(SEED),--seed $(SEED))

check: style prose types layers deps sizes docs ## all of the following; with -k, past the first that fails

style: setup ## ruff: rules and format; codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

prose: setup ## phrases and names that must not come back
	$(BIN)/python tools/check_prose.py

types: setup ## mypy, strict; tests/typing is what the types of steps and pipelines say to a user
	$(BIN)/mypy src tools $(wildcard examples bench) tests/typing

layers: setup ## import-linter: no import points up, no circle, the core is pure; tests use few private names
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/check_circles.py
	$(BIN)/python tools/check_private.py

deps: setup ## deptry: imports are declared; dependencies with used internals have a bound
	$(BIN)/deptry src
	$(BIN)/python tools/check_caps.py

sizes: setup ## files and functions within their bounds
	$(BIN)/python tools/check_size.py

docs: setup ## links and code in Markdown, no traces of a machine
	$(BIN)/python tools/check_docs.py

fix: setup ## apply the formatter and every safe fix
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(VENV)/.setup-bench ## measure the engines, the gateway, and what telemetry costs
	$(BIN)/python bench/engine.py
	$(BIN)/python bench/gateway.py
	$(BIN)/python bench/waiting.py
	$(BIN)/python bench/telemetry.py
	$(BIN)/python bench/engines.py
	$(BIN)/python bench/following.py

# Queries an index and vulnerability databases, so it is not part of check. pip-audit has its own environment.
audit: setup $(AUDIT)/.setup ## known vulnerabilities of locked packages, and licences of installed ones; needs a network
	$(BIN)/python tools/check_licences.py
	$(AUDIT)/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements/image.txt --requirement requirements/dev.txt

$(AUDIT)/.setup:
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet pip-audit
	@touch $@

lock: ## rewrite constraints*.txt and requirements/: the newest versions that fit pyproject.toml
	$(PYTHON) tools/lock.py

clean: ## remove the environments and every cache
	rm -rf $(VENV) $(GENERATORS) $(PHOENIX) $(AUDIT) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
