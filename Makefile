# Works from a fresh clone on x86-64 Debian or Ubuntu with Rust, Python 3 with pip (3.11 or later for the
# tests), make and a C++ compiler. Each target does all of its own set-up, and says what is missing.

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help libtorch python demo build check docs test test-touched bench

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

libtorch: ## put libtorch into .libtorch (or check the one that LIBTORCH names)
	@scripts/toolchain.sh
	@scripts/libtorch.sh

python: ## put the Python that some tests run into .venv
	@scripts/python.sh

demo: libtorch ## learn from the bundled stream four ways and report what was forgotten (demo-out/report.html)
	@scripts/demo.sh

build: libtorch ## build the three programs into target/debug
	cargo build --workspace --bins

check: libtorch ## format, lints and documentation: no warning passes
	@scripts/toolchain.sh fmt clippy
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

docs: libtorch ## write docs/configuration.md from the programs
	cargo build --workspace --bins
	PERENNIAL_BLESS=1 cargo test -p perennial-tests --test main configuration::reference

# The programs come first: tests/ drives them and finds them beside its own executable.
test: libtorch python ## run every test of every crate
	cargo build --workspace --bins --tests
	cargo test --workspace

test-touched: libtorch python ## run the tests of the crates that differ from BASE (HEAD~1), and of those that depend on them
	@scripts/test-touched.sh "$(or $(BASE),HEAD~1)"

bench: libtorch ## run the benchmarks, or those that BENCH names: make bench BENCH="stages batch"
	cargo bench --workspace $(foreach name,$(or $(BENCH),*),--bench "$(name)")
