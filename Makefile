# `make` alone lists the targets. Each does its own set-up, on a fresh clone as well.

PYTHON ?= python3
PYTEST_ARGS ?=
PROCESSES ?= 3
CHAOS_ARGS ?=
RUN := .venv/bin/python
INSTALLED := .venv/.installed
PARTS := .devstack/.parts

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test faults chaos poison simulate mutants spec bench bench-check bench-peers bench-docs lint format clean
.DELETE_ON_ERROR:

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(PARTS) ## .venv, and the parts: Java, Kafka, Postgres (found on this machine or fetched)

demo: setup ## the main job on real Kafka and Postgres, killed at random (KEEP=1, SECONDS=45)
	@$(RUN) -m demo $(if $(KEEP),--keep) $(if $(SECONDS),--seconds $(SECONDS))

test: setup ## all tests, on the real parts, three files at a time (PYTEST_ARGS='-k devstack')
	$(RUN) -m pytest -ra --durations=15 -n $(PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

faults: setup ## a worker crashes, stops or fails at every edge of every step, on the real parts
	FAULTS=all $(RUN) -m pytest -ra tests/faults/test_steps.py

simulate: $(INSTALLED) ## the engine over fakes of Kafka and Postgres: SEEDS=100000, or SEED=17 with its timeline; REDRIVE=1
	@$(RUN) -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),100000)) $(if $(REDRIVE),--redrive)

mutants: $(INSTALLED) ## one guard of the engine taken out at a time: the simulation must catch each
	@$(RUN) -m tests.simulation --mutants --seeds $(or $(SEEDS),15000)

chaos: setup ## every kind of fault on real parts for a while, then the audit (MINUTES=10, SEED=7)
	@$(RUN) -m tests.faults.chaos --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED)) $(if $(PLANTED),--planted $(PLANTED)) $(CHAOS_ARGS)

poison: setup ## bad messages among good ones, repaired and replayed, under kill -9 (MESSAGES=100000, SEED=7)
	@$(RUN) -m tests.faults.poison $(if $(MESSAGES),--messages $(MESSAGES)) $(if $(SEED),--seed $(SEED))

spec: $(INSTALLED) ## the protocol, checked by TLC: large models, and each guard taken out
	@$(RUN) -m spec.check small deep liveness large --guards

bench: setup ## messages/s, latency and cost beside hand-written loops (BENCH=work, ROUNDS=5, JSON=file)
	@$(RUN) -m bench $(BENCH) --rounds $(or $(ROUNDS),5) $(if $(JSON),--json $(JSON))

bench-check: setup ## the ratios that matter most, against those committed in bench/ratios.json
	@$(RUN) -m bench --check

bench-peers: setup ## beside Kafka Streams, Quix Streams and plain Java, fetched first (ROUNDS=5)
	@$(RUN) -m bench peers peers-latency --rounds $(or $(ROUNDS),5) $(if $(JSON),--json $(JSON))

bench-docs: setup ## docs/benchmarks.md and its plots, from docs/benchmarks.json
	@$(RUN) -m bench.document

lint: $(INSTALLED) ## ruff, mypy --strict, import-linter
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy --strict processor pipelines devstack demo bench spec
	.venv/bin/lint-imports

format: $(INSTALLED) ## ruff format, and what ruff can mend
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

clean: ## removes all that make has made, .venv and the parts included
	rm -rf .venv .devstack dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	rm -rf .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Python 3.11 or newer is needed; try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "Python's venv module is missing (Debian: apt install python3-venv)" >&2; exit 1; }
	@$(RUN) -c '' 2>/dev/null || $(PYTHON) -m venv --clear .venv
	@echo "installing requirements.lock into .venv"
	@$(RUN) -m pip install --quiet --require-hashes -r requirements.lock
	@$(RUN) -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(PARTS): $(INSTALLED) $(wildcard devstack/kafka/pom.xml devstack/parts/ecj/pom.xml devstack/parts/pip/*.txt)
	@$(RUN) -m devstack parts
	@touch $@
