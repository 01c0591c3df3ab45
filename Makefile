# `make demo` shows it, `make test` proves it; both install what they need and say so. `make help` lists the rest.
SHELL := /bin/bash

# One target folder for people and CI alike, outside the checkout: the dependencies take tens of minutes to build.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/townlake/target
# Python clients of the tests.
export TOWNLAKE_VENV ?= $(HOME)/.cache/townlake/venv
SCALE ?= 0.1
BIN = $(if $(TOWNLAKE_BIN),$(TOWNLAKE_BIN),$(CARGO_TARGET_DIR)/debug/townlake)

.PHONY: help demo demo-federation test soak lint audit bench build clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

demo: ## a whole cluster on this machine: Postgres, etcd, coordinator, two executors, four questions (SCALE=1 for more data)
	@scripts/setup.sh demo
	@$(if $(TOWNLAKE_BIN),echo "using $(TOWNLAKE_BIN)",scripts/build.sh)
	@exec $(BIN) demo --scale $(SCALE) $(DEMO_FLAGS)

demo-federation: ## the same over five systems: Kafka, ClickHouse and an emulator of BigQuery as well (700 MB more to fetch, once)
	@scripts/setup.sh demo-federation
	@$(if $(TOWNLAKE_BIN),echo "using $(TOWNLAKE_BIN)",scripts/build.sh)
	@exec $(BIN) demo --federation --scale $(SCALE) $(DEMO_FLAGS)

test: ## everything that CI runs: lint, unit tests, end-to-end tests, clients
	@scripts/setup.sh test
	@scripts/test.sh

soak: ## the randomised suites at full count
	@scripts/setup.sh test
	@TOWNLAKE_SOAK=1 scripts/test.sh

lint: ## format, clippy, licences, bans, sources
	@scripts/setup.sh build
	@scripts/lint.sh

audit: ## known advisories (fetches the advisory database)
	@cargo deny --version >/dev/null 2>&1 || cargo install cargo-deny --locked --debug
	cargo deny check advisories

bench: ## TPC-H beside single-process DataFusion, and the latency of small queries
	@scripts/setup.sh demo
	@$(if $(TOWNLAKE_BIN),true,scripts/build.sh)
	$(BIN) bench tpch --scale $(SCALE)
	$(BIN) bench latency

build: ## the binary
	@scripts/setup.sh build
	@scripts/build.sh

clean: ## removes the target folder and the Python environment
	rm -rf "$(CARGO_TARGET_DIR)" "$(TOWNLAKE_VENV)"
