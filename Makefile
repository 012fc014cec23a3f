# One .venv, one cargo build, one profile. `make help` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Outside the checkout, so that a fresh clone finds what the last one built.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/pollen/target
# Set for every cargo command: a change of it would build PyO3 a second time.
export PYO3_BUILD_EXTENSION_MODULE := 1
export PYTHONDONTWRITEBYTECODE :=
CARGO := cargo --locked
WHEELS := build/wheels
T ?= 60
# Simulator runs of make check; make test has 60 and make accept the rest.
SIM_SEEDS ?= 10

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | expand -t 12

$(VENV)/.locked: requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	touch $@

.PHONY: venv
venv: $(VENV)/.locked ## the virtual environment, from requirements.lock alone

# Beside .venv's own packages: what the tests of the extra otel want.
$(VENV)/.otel: requirements-otel.lock $(VENV)/.locked
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-otel.lock
	touch $@

# What drives the browser of tests/e2e/test_browser.py, which is Debian's; it downloads none.
$(VENV)/.browser: requirements-browser.lock $(VENV)/.locked
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-browser.lock
	touch $@

# The Python runner: a component with CPython inside. Its build is kept outside the checkout, by the
# hash of what it is built from.
RUNNER := src/pollen/runtime/runner.wasm.xz
$(RUNNER): requirements-runner.lock $(shell find runner -name '*.py' -o -name '*.wit')
	$(PYTHON) runner/build.py

.PHONY: runner
runner: $(RUNNER) ## the Python runner, which Python seeds run in

.PHONY: native
native: $(VENV)/.locked $(RUNNER) ## build the muscles and install the whole package into .venv
	rm -rf $(WHEELS)
	@echo 'building the muscles (the first time 7 to 10 minutes on two cores) ...'
	$(BIN)/maturin build --locked --release --out $(WHEELS) --interpreter $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall $(WHEELS)/*.whl

.PHONY: demo
demo: native ## a three-node cluster on this machine, from seed to take-over
	$(BIN)/pln demo

.PHONY: demo-pipeline
demo-pipeline: native ## three seeds that call each other, on five nodes of this machine
	$(BIN)/python examples/pipeline/run.py

.PHONY: check
check: $(VENV)/.locked ## the brain's loop: pure Python, no cargo, no native module
	$(BIN)/ruff check src tests benchmarks runner
	$(BIN)/ruff format --check src tests benchmarks runner
	$(BIN)/mypy
	$(BIN)/pytest -q -n auto tests/unit tests/properties tests/style
	POLLEN_SIM_SEEDS=$(SIM_SEEDS) $(BIN)/pytest -q -n auto tests/scenarios

.PHONY: rust
rust: $(VENV)/.locked ## the crates' own tests, formatting and lints
	cargo fmt --check
	$(CARGO) metadata --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null
	$(CARGO) test --release --workspace --no-fail-fast
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings

.PHONY: lint
lint: $(VENV)/.locked ## formatting and lints of both languages
	$(BIN)/ruff check src tests benchmarks runner
	$(BIN)/ruff format --check src tests benchmarks runner
	$(BIN)/mypy
	cargo fmt --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings

.PHONY: test
test: $(VENV)/.otel ## everything that proves the product
	./.ci/setup
	$(MAKE) --no-print-directory SIM_SEEDS=60 check rust native
	$(BIN)/python -m tests.recorder --begin
	POLLEN_REQUIRE_NATIVE=1 $(BIN)/pytest -q -o pythonpath=. -n auto tests/contract tests/native tests/cli
	POLLEN_REQUIRE_NATIVE=1 $(BIN)/pytest -q -o pythonpath=. -n 3 --dist loadfile -m 'not slow and not alone' tests/e2e
	POLLEN_REQUIRE_NATIVE=1 $(BIN)/pytest -q -o pythonpath=. -m 'alone and not slow' tests/e2e
	$(BIN)/python -m tests.recorder
	$(MAKE) --no-print-directory fuzz T=20

.PHONY: fuzz
fuzz: ## run the decoder fuzzers, T seconds each, and made-up modules for half
	./fuzz/run $(T)

.PHONY: bench
bench: native ## the product against its anchors, interleaved; writes benchmarks/results.json
	$(CARGO) build --release --workspace
	$(BIN)/python benchmarks/bench.py $(BENCH)

# The worlds of tests/scenarios leave gigabytes of heap behind: no turn is timed in their process.
.PHONY: accept
accept: test $(VENV)/.browser ## strict numbers and long runs, on an otherwise idle machine
	$(BIN)/pytest -q -n auto -m slow --ignore tests/scenarios/test_figures.py tests/scenarios
	$(BIN)/pytest -q -m slow tests/unit
	./.ci/programs
	./.ci/toolchains
	POLLEN_STRICT=1 POLLEN_REQUIRE_NATIVE=1 $(BIN)/pytest -q -o pythonpath=. -m 'slow or figure' \
		--ignore tests/unit --ignore tests/scenarios tests
	$(BIN)/pytest -q -m slow tests/scenarios/test_figures.py
	$(MAKE) --no-print-directory bench BENCH=--strict
	$(MAKE) --no-print-directory fuzz T=600

# zig is the linker that knows the symbols of an old glibc, so that one wheel runs on many systems.
$(VENV)/.zig: requirements-wheel.lock $(VENV)/.locked
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-wheel.lock
	touch $@

.PHONY: wheel
wheel: $(VENV)/.zig $(RUNNER) ## a wheel for any Linux with glibc 2.28 (2018) or newer, into dist/
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/maturin build --locked --release --zig --compatibility manylinux_2_28 \
		--target $$(uname -m)-unknown-linux-gnu --out dist --interpreter $(BIN)/python

.PHONY: clean
clean: ## remove what make made here, not the shared cargo build
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
