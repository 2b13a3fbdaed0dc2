# Works from a fresh clone on x86-64 Debian or Ubuntu with Rust, Python 3 with pip (3.11 or later for the
# tests), make and a C++ compiler. Each target does all of its own set-up, and says what is missing.

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help libtorch python demo build check docs test test-ingest test-replay test-trainer test-python test-touched bench

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

libtorch: ## put libtorch into .libtorch (or check the one that LIBTORCH names)
	@scripts/toolchain.sh
	@scripts/libtorch.sh

python: ## put the Python that some tests run into .venv
	@scripts/python.sh

demo: libtorch ## train on the bundled stream in five ways and report what was forgotten (demo-out/report.html)
	@scripts/demo.sh

build: libtorch ## build the three programs into target/debug
	cargo build --workspace --bins

check: libtorch ## format, lints, documentation, dependencies: no warning passes
	@scripts/toolchain.sh fmt clippy
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
	@scripts/deny.sh

docs: libtorch ## regenerate docs/configuration.md from the programs
	cargo build --workspace --bins
	PERENNIAL_BLESS=1 cargo test -p perennial-tests --test main configuration::reference

# The programs come first: tests/ drives them and finds them beside its own executable.
test: libtorch python ## run every test of every crate
	cargo build --workspace --bins --tests
	cargo test --workspace

# TEST is a part of a test's path: make test-ingest TEST=dedup::lsh. The libraries have the tests: then only
# the library is linked.
test-ingest: ## test perennial-ingest alone, without libtorch and Python
	@scripts/toolchain.sh
	cargo test -p perennial-ingest $(if $(TEST),--lib) -- $(TEST)

test-replay: ## test perennial-replay alone, without libtorch and Python
	@scripts/toolchain.sh
	cargo test -p perennial-replay $(if $(TEST),--lib) -- $(TEST)

test-trainer: libtorch ## test perennial-trainer alone
	cargo test -p perennial-trainer $(if $(TEST),--lib) -- $(TEST)

test-python: libtorch python ## run the end-to-end tests that need the Python of .venv
	cargo build --workspace --bins
	cargo test -p perennial-tests --test main -- bucket:: examples:: python:: s3:: stranger::

test-touched: libtorch python ## run the tests of the crates that differ from BASE (HEAD~1), and of those that depend on them
	@scripts/test-touched.sh "$(or $(BASE),HEAD~1)"

bench: libtorch ## run the benchmarks, or those that BENCH names: make bench BENCH="stages batch"
	cargo bench --workspace $(foreach name,$(or $(BENCH),*),--bench "$(name)")
