# Gatehouse: every command a person needs. Each target installs what it needs (Debian/Ubuntu).
SHELL := /bin/bash
.DEFAULT_GOAL := help
# Dependencies are compiled once per machine, not once per clone.
export CARGO_TARGET_DIR ?= $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/gatehouse/target
export PATH := $(HOME)/.cargo/bin:$(PATH)
DEV_DIR ?= $(CURDIR)/.dev

.PHONY: help deps test-deps run test lint fuzz bench soak crash clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps:
	@release/install-deps.sh build

test-deps:
	@release/install-deps.sh build test

run: deps ## Build and start a development instance on loopback (HTTPS 8443, SSH 2222)
	cargo build --release -p gatehouse
	$(CARGO_TARGET_DIR)/release/gatehouse run --data $(DEV_DIR)

test: test-deps lint ## Format, lints, unit tests and end-to-end tests against real peers
	release/run-tests.sh

lint: deps
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

bench: test-deps ## Ratios against OpenSSH in the same run, and the budgets of the design
	cargo build --release -p gatehouse -p gatehouse-tests --bins
	$(CARGO_TARGET_DIR)/release/bench --gatehouse $(CARGO_TARGET_DIR)/release/gatehouse

soak: test-deps ## 20 SFTP gets and puts of 1 GiB and 1 GiB full duplex through the gateway, byte-identical (long)
	cargo build --release -p gatehouse -p gatehouse-tests --bins
	$(CARGO_TARGET_DIR)/release/bench --gatehouse $(CARGO_TARGET_DIR)/release/gatehouse --only soak

crash: test-deps ## 200 rounds of kill -9 under load: no acknowledged entry may be lost
	GATEHOUSE_CRASH_ROUNDS=200 cargo nextest run --locked -p gatehouse-store -E 'test(kill_at)' --no-capture

fuzz: test-deps ## Random bytes at every parser of foreign input, 20,000 cases each
	PROPTEST_CASES=20000 cargo nextest run --locked --workspace -E 'test(/never_panic|any_bytes|without_panic|survived|stay_inside/)'

clean: ## Remove the development instance (not the build cache)
	rm -rf $(DEV_DIR)
