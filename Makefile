# All that is needed is Python 3.11 or newer, make and git; everything else is installed into .venv.

PYTHON ?= python3
LISTEN ?= $(or $(CREDITLEDGER_LISTEN),127.0.0.1:50051)
DATA ?= $(or $(CREDITLEDGER_EMBEDDED),.data)
CATALOG ?= catalog.example.toml

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
INSTALL := $(PIP) install --constraint constraints.txt
PROTO_BIN := .venv-proto/bin
DESCRIBED := pyproject.toml client/pyproject.toml constraints.txt

# Foreign clients that tests and benchmarks call, where .ci/run has put them.
export PATH := $(CURDIR)/.tools/bin:$(PATH)

# The stubs in client/ are made with these options; both `proto` and `check-stubs` use them. $(1): where to.
protoc = PATH="$(PROTO_BIN):$$PATH" $(PROTO_BIN)/python -m grpc_tools.protoc -Iprotos --python_out=$(1) \
	--grpc_python_out=$(1) --mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1) protos/creditledger/v1/*.proto

.DEFAULT_GOAL := help
.PHONY: help run tracker install test model mutants faults faults-long bench bench-growth bench-watch bench-breakdown check check-code check-types check-layers check-protos check-stubs proto clean

help: ## List what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Variables: LISTEN=$(LISTEN) DATA=$(DATA) CATALOG=$(CATALOG) PYTHON=$(PYTHON)"

run: .venv/.run ## Serve on LISTEN with an embedded Postgres in DATA, or with CREDITLEDGER_DATABASE_URL
	@exec $(BIN)/creditledger-server serve --listen '$(LISTEN)' --embedded '$(DATA)' --migrate --catalog '$(CATALOG)'

tracker: .venv/.examples ## Serve the page of examples/usage_tracker, for the ledger that `make run` serves on LISTEN
	@exec $(BIN)/python examples/usage_tracker/app.py --ledger '$(LISTEN)'

install: .venv/.dev ## Install everything for development into .venv

# Two processes, file by file, because most tests wait for a server; CI has two cores.
test: .venv/.dev ## Run all tests; PYTEST_ADDOPTS adds options, as in: make test PYTEST_ADDOPTS='-k cli'
	@$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Servers, clients and a Postgres of their own under every fault of docs/faults.md; SEED=7 repeats a run's choices.
FAULTS := PYTHONPATH=tests/support $(BIN)/python tests/faults/campaign.py $(FAULT) $(if $(SEED),--seed $(SEED))

faults: .venv/.dev ## Kill, stop, cut and overload it, and check every answer; FAULT="kill_server net_stall" picks some
	@$(FAULTS)

faults-long: .venv/.dev ## The same in random order with new seeds for MINUTES=60
	@$(FAULTS) --minutes $(or $(MINUTES),60)

model: .venv/.dev ## Ask a ledger and a model of it the same, step by step; STEPS=100000 SEED=7
	@PYTHONPATH=tests/support:tests/model $(BIN)/python tests/model/model_run.py $(if $(STEPS),--steps $(STEPS)) \
		$(if $(SEED),--seed $(SEED)) $(if $(EXAMPLE),--example $(EXAMPLE))

mutants: .venv/.dev ## Seed one bug after the other and see that its test finds it; ONLY=words chooses some
	@$(BIN)/python -m tests.mutants.run $(ONLY)

# All four take some minutes, use all of the machine, and update docs/performance.md; DURATION is in seconds.
bench: .venv/.run ## Measure every figure of docs/performance.md; fails if the ledger does not hold what was answered
	@$(BIN)/python -m benchmarks.bench $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(DURATION),--duration $(DURATION))

bench-growth: .venv/.run ## Measure large ledgers against small ones; SCALE=0.1 takes a tenth of the sizes
	@$(BIN)/python -m benchmarks.growth $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(DURATION),--duration $(DURATION)) \
		$(if $(SCALE),--scale $(SCALE))

bench-watch: .venv/.run ## Measure watching: its lag, fan-out, cost and memory, and how many streams a process holds
	@$(BIN)/python -m benchmarks.watch $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(DURATION),--duration $(DURATION)) \
		$(if $(SCALE),--scale $(SCALE))

bench-breakdown: .venv/.run ## Measure where the time of a deduction goes
	@$(BIN)/python -m benchmarks.breakdown

check: check-code check-types check-layers check-protos check-stubs ## Lint, types, layers, protos, generated stubs

check-code: .venv/.dev
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

check-types: .venv/.dev
	@$(BIN)/mypy

check-layers: .venv/.dev
	@$(BIN)/lint-imports --no-logo

# Each commit is compared with the one before it, and what is not committed yet with the last commit.
check-protos: .venv/.dev
	@$(BIN)/buf lint
	@$(BIN)/buf format --diff --exit-code
	@for base in HEAD~1 HEAD; do \
		if git cat-file -e "$$base:protos" 2>/dev/null; then \
			$(BIN)/buf breaking --against ".git#ref=$$base" || exit; \
		else \
			echo "buf breaking: nothing to compare with: $$base does not exist or has no protos"; \
		fi; \
	done

check-stubs: .venv-proto/.done
	@made=$$(mktemp -d) && trap 'rm -rf "$$made"' EXIT && $(call protoc,"$$made") && \
		diff -ru --exclude=__pycache__ client/creditledger/v1 "$$made/creditledger/v1" || \
		{ echo "The stubs in client/creditledger/v1 are not those of protos/: make proto"; exit 1; }

proto: .venv-proto/.done ## Generate the stubs in client/creditledger/v1 from protos/
	@$(call protoc,client)

clean: ## Remove what was installed and built; the data in DATA stays
	rm -rf .venv .venv-proto .tools build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		f"Python 3.11 or newer is needed, {sys.executable} is {sys.version.split()[0]}: make PYTHON=python3.12 ...")'
	@$(PYTHON) -m venv .venv
	@touch $@

# The build backend first, and no build isolation: so it is pinned as well.
.venv/.run: .venv/.made $(DESCRIBED)
	@echo "Installing into .venv ..."
	@$(INSTALL) editables hatchling
	@$(INSTALL) --no-build-isolation --editable './client[cli]' --editable '.[embedded]'
	@touch $@

.venv/.examples: .venv/.run
	@echo "Installing what the examples need into .venv ..."
	@$(INSTALL) --no-build-isolation --editable '.[embedded,examples]'
	@touch $@

.venv/.dev: .venv/.run
	@echo "Installing the development tools into .venv ..."
	@$(INSTALL) --no-build-isolation --editable './client[cli]' --editable '.[embedded,examples,dev]'
	@touch $@

.venv-proto/.done: constraints-proto.txt
	@echo "Installing the stub generator into .venv-proto ..."
	@$(PYTHON) -m venv .venv-proto
	@$(PROTO_BIN)/python -m pip --disable-pip-version-check --quiet install --constraint constraints-proto.txt \
		grpcio-tools mypy-protobuf
	@touch $@
