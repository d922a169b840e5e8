# run: the demo · test: everything that must be green · chaos: vendors that fail · bench: the figures of the README · lint · fuzz · image
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.PHONY: run test test-rust test-sdk schemathesis lint chaos bench bench-quick fuzz image tools

CARGO ?= cargo
CACHE := tests/.cache
# Only there when the system's Node is too old (see `tools`).
export PATH := $(CURDIR)/$(CACHE)/node/node_modules/.bin:$(PATH)

run:
	$(CARGO) run --release --locked -- demo

# The SDKs are installed first: the Rust tests drive them too, and fail when they are missing.
test: tools lint
	tests/sdk/install.sh
	tests/schemathesis/install.sh
	$(CARGO) test --locked

# Ten minutes of schemathesis over the OpenAPI document (`make test` runs one).
SCHEMATHESIS_SECONDS ?= 600
schemathesis: tools
	tests/schemathesis/install.sh
	SCHEMATHESIS_SECONDS=$(SCHEMATHESIS_SECONDS) $(CARGO) test --locked --test it schemathesis -- --nocapture

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	if command -v cargo-deny >/dev/null; then $(CARGO) deny check licenses bans sources; else echo "note: cargo-deny is not installed, deny.toml was not checked"; fi

# Ten thousand decisions to five vendors that fail in every way; AQUEDUCT_CHAOS_SEED=n takes another course.
chaos:
	$(CARGO) test --release --locked --test it fanout::big -- --nocapture

# Load and durability figures, on a disk whose sync is real. ARGS="--only drain --quick".
bench: tools
	$(CARGO) bench --locked --bench load -- $(ARGS)

bench-quick:
	$(CARGO) bench --locked --bench load -- --quick $(ARGS)

# Both targets of fuzz/, FUZZ_SECONDS each; needs the nightly toolchain and `cargo install cargo-fuzz --locked`.
FUZZ_SECONDS ?= 300
fuzz:
	mkdir -p fuzz/corpus/blueprint fuzz/corpus/event
	cp blueprints/*/*.yaml fuzz/corpus/blueprint/
	cp tests/fixtures/segment/*.json fuzz/corpus/event/
	for target in blueprint event; do
	  nice -n 19 $(CARGO) +nightly fuzz run -s none -a $$target -- -max_total_time=$(FUZZ_SECONDS) -timeout=20
	done

image:
	docker build -t aqueduct:dev .

# What the tests need besides a Rust toolchain: a C compiler for SQLite, Node ≥ 20 and Python ≥ 3.9 for the SDKs.
tools:
	@missing=()
	command -v cc >/dev/null || missing+=(build-essential)
	command -v node >/dev/null || missing+=(nodejs)
	command -v npm >/dev/null || missing+=(npm)
	command -v curl >/dev/null || missing+=(curl)
	python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)
	if [ "$${#missing[@]}" -gt 0 ]; then
	  sudo=(); [ "$$(id -u)" = 0 ] || sudo=(sudo)
	  echo "installing with apt-get: $${missing[*]}"
	  "$${sudo[@]}" apt-get update -qq
	  "$${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$${missing[@]}"
	fi
	major=$$(node --version | sed 's/^v\([0-9]*\).*/\1/')
	if [ "$$major" -lt 20 ]; then
	  echo "Node $$major is too old for the SDKs: installing 20 into $(CACHE)/node (package 'node' from npm)"
	  npm install --prefix $(CACHE)/node --no-audit --no-fund --loglevel=error node@20
	fi
	rustup component add rustfmt clippy >/dev/null 2>&1 || true
