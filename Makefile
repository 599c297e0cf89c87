# The features of actix-quorum; `linked` needs libquorum's development files.
FEATURES = linked metrics serde sim web
# The features that build without Corosync's development files.
PORTABLE = metrics serde sim web

# How long `make fuzz` and `make soak` run, in seconds.
FUZZ_SECONDS = 600
SOAK_SECONDS = 600

# How often `make flaky` runs all tests, and how often the tests that assert times.
RUNS = 10
TIMED_RUNS = 50

# The arguments of the one build of the tests, without the benchmarks, and of the run. The tests run in
# parallel, because most of them wait. `make test-long` runs the soak.
TREE = --locked --workspace --exclude actix-quorum-benches --features '$(PORTABLE)'
RUN = --include-ignored --skip soak:: --test-threads=8

.PHONY: help cluster cluster-down test test-stages test-long test-long-stages test-versions flaky soak \
	bench overlap instructions mutants loom histories linked sanitize fuzz corpus check fmt clippy doc features \
	dependencies minimal package

help:
	@echo 'make test       every functional test, including those on real Corosync daemons and in a browser (needs root)'
	@echo 'make test-long  the slow tests: loom, histories, linked, sanitizers, fuzzing, soak, versions (needs root)'
	@echo 'make test-versions  the tests on real daemons of other Corosync versions (needs root, Debian)'
	@echo 'make check      format, lints, docs, feature combinations, dependencies'
	@echo 'make flaky RUNS=n  runs the tests n times, every other time on a busy machine (needs root)'
	@echo 'make soak       ten minutes of random faults on a real cluster; SOAK_SECONDS=n sets the time (needs root)'
	@echo 'make fuzz       ten minutes of fuzzing with input as from Corosync; FUZZ_SECONDS=n sets the time'
	@echo 'make sanitize   the calls of libquorum under the address and leak sanitizers (needs root)'
	@echo 'make instructions  checks that the hot paths take no more instructions than stored'
	@echo 'make mutants    mutates the rules of quorum and delivery; prints the mutants that no test detects (hours)'
	@echo 'make bench      measures the cost and compares it with the alternatives, see BENCHMARKS.md (needs root)'
	@echo 'make overlap    measures for how long two partitions report quorum at once, see BENCHMARKS.md (needs root)'
	@echo 'make cluster    starts three nodes for experiments; make cluster-down removes them (needs root)'

# Starts three nodes for experiments, and prints how to break them.
cluster:
	scripts/install-test-deps
	scripts/cluster up

cluster-down:
	scripts/cluster down

# Skips nothing: a missing daemon or browser is a failure.
test:
	@scripts/check-machine
	@scripts/stage total $(MAKE) --no-print-directory test-stages

test-stages:
	@scripts/stage install scripts/install-test-deps
	@scripts/check-machine
	@scripts/stage build cargo test $(TREE) --no-run
	@scripts/stage test cargo test $(TREE) --tests -- $(RUN)
	@scripts/stage documentation cargo test $(TREE) --doc

# The tests that take long: more histories, more tools, more versions of Corosync.
test-long:
	@scripts/check-machine
	@scripts/stage total $(MAKE) --no-print-directory test-long-stages

test-long-stages:
	@scripts/stage install scripts/install-long-deps
	@scripts/stage loom $(MAKE) --no-print-directory loom
	@scripts/stage histories $(MAKE) --no-print-directory histories
	@scripts/stage linked $(MAKE) --no-print-directory linked
	@scripts/stage sanitize $(MAKE) --no-print-directory sanitize
	@scripts/stage fuzz $(MAKE) --no-print-directory fuzz FUZZ_SECONDS=60
	@scripts/stage soak $(MAKE) --no-print-directory soak SOAK_SECONDS=120
	@scripts/stage versions $(MAKE) --no-print-directory test-versions

# Runs the tests many times and prints those that fail in some runs; see the script.
flaky:
	scripts/check-machine
	scripts/install-test-deps
	RUNS=$(RUNS) TIMED_RUNS=$(TIMED_RUNS) scripts/flaky $(TREE) -- $(RUN)

# Runs the lock-free parts in every possible order.
loom:
	RUSTFLAGS='--cfg loom_check' cargo test --lib in_every_order

# Runs ten times as many histories of the simulated cluster as `cargo test`.
histories:
	PROPTEST_CASES=10000 cargo test $(TREE) --lib -- property::

# Runs the tests on real daemons with the Corosync of other Debian releases: daemon, library, and each
# with the installed one. Prints a table.
test-versions:
	scripts/install-test-deps
	scripts/versions $(TREE)

# Links libquorum, which the other tests load at run time.
LINKED = cargo test --locked --workspace --exclude actix-quorum-benches --all-features --tests

linked:
	$(LINKED)
	$(LINKED) -- --ignored --test-threads=8 handle:: load:: abi::

# Causes random faults on a real cluster.
soak:
	scripts/install-test-deps
	SOAK_SECONDS=$(SOAK_SECONDS) cargo test $(TREE) --test own -- --ignored --nocapture soak::

# Measures the figures of BENCHMARKS.md. A missed budget is printed and is not a failure, because the
# machine may be busy.
bench:
	scripts/install-bench-deps
	cargo bench -p actix-quorum-benches --bench quorum

# Measures for how long two partitions report quorum at the same time, on three real nodes.
# OVERLAP_RUNS=n repeats it, OVERLAP_TOKEN=default or milliseconds sets the token, OVERLAP_ONLY=text
# selects rows (`knet`, `paused`, `udpu cut`). Fails if a budget is missed.
overlap:
	scripts/install-bench-deps
	cargo bench -p actix-quorum-benches --bench overlap

# Checks that the hot paths take no more instructions than stored. A busy machine does not change that.
instructions:
	scripts/install-check-deps
	cargo bench -p actix-quorum-benches --bench instructions

# Feeds random notifications, answers and counters to the tracker, beginning with the stored corpus.
# Inputs that reach new code are kept in fuzz/found. RUSTC_BOOTSTRAP enables the address sanitizer of a
# stable compiler.
FUZZ = RUSTC_BOOTSTRAP=1 cargo fuzz run tracker

fuzz:
	scripts/install-long-deps
	mkdir -p fuzz/found
	$(FUZZ) fuzz/found fuzz/corpus/tracker -- -max_len=512 -max_total_time=$(FUZZ_SECONDS) \
		-print_final_stats=1

# Replaces the stored corpus by the smallest one that covers as much as all inputs together.
corpus:
	mv fuzz/corpus/tracker fuzz/corpus/before && mkdir fuzz/corpus/tracker
	$(FUZZ) fuzz/corpus/tracker fuzz/corpus/before fuzz/found -- \
		-set_cover_merge=1 -use_counters=0
	rm -r fuzz/corpus/before fuzz/found

# Runs the callbacks, every call on a real daemon, and the deaths of daemons under the address and leak
# sanitizers. The fake stack is off, because the stack check measures the real stack. The quarantine is
# small, because the test of the deaths measures memory.
SANITIZED = RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address \
	ASAN_OPTIONS=detect_stack_use_after_return=0:quarantine_size_mb=1 \
	cargo test --target "$$(rustc --print host-tuple)" --features sim

sanitize:
	scripts/install-test-deps
	$(SANITIZED) --lib -- --include-ignored --skip property::
	$(SANITIZED) --test it --test own -- --include-ignored --test-threads=4 handle:: reconnect::

# Changes one expression at a time in the rules of belief, deadlines, continuity and delivery, and runs
# the unit tests. Prints the changes that no test detects; some of them are equivalent to the original.
# Not in CI: it takes hours. `make mutants MUTANTS='-f src/state/lease.rs'` selects files.
MUTANTS = -f 'src/state/*.rs' -f src/state/tracker/events.rs -f 'src/registry/*.rs' -e src/state/fuzz_driver.rs \
	-E in_every_order -E believes_in_ring -E 'impl fmt::Debug'

mutants:
	cargo mutants --version >/dev/null 2>&1 || cargo install --locked cargo-mutants
	PROPTEST_CASES=100 cargo mutants --output target --timeout 60 $(MUTANTS) \
		--features metrics,sim,web --cargo-arg=--lib

check: fmt clippy doc features dependencies minimal package instructions

fmt:
	cargo fmt --all --check

clippy:
	cargo clippy --workspace --all-targets --all-features -- -D warnings

doc:
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --features '$(PORTABLE)'

features:
	@set -e; sets=,; for feature in $(FEATURES); do \
		for set in $$sets; do sets="$$sets $$set$$feature,"; done; \
	done; \
	for set in $$sets; do \
		echo "cargo clippy --no-default-features --features $$set"; \
		cargo clippy --quiet --no-default-features --features "$$set" -- -D warnings; \
	done

# Checks that no crate is linked in two versions (those of macros run at build time), and the rules of
# deny.toml.
dependencies:
	@echo 'cargo tree --duplicates'; \
	duplicates=$$(cargo tree --workspace --all-features --duplicates -e normal,no-proc-macro) && \
	if [ -n "$$duplicates" ]; then echo "$$duplicates"; exit 1; fi
	scripts/install-check-deps
	cargo deny check bans licenses sources

# Checks that the oldest versions that Cargo.toml accepts are sufficient. Works in a copy, because this
# changes Cargo.lock.
minimal:
	rm -rf target/minimal && mkdir -p target/minimal
	cp -r Cargo.toml Cargo.lock README.md FAILURES.md GUIDE.md src corosync-sys target/minimal
	sed -i 's/^members = .*/members = ["corosync-sys"]/' target/minimal/Cargo.toml
	cd target/minimal && RUSTC_BOOTSTRAP=1 cargo update --quiet -Z direct-minimal-versions && \
		cargo check --quiet --target-dir ../minimal-build --features '$(PORTABLE)'

# Checks that both crates build from their packages alone.
package:
	# Cargo would reuse the files of an earlier package of the same version.
	rm -rf "$${CARGO_HOME:-$$HOME/.cargo}"/registry/src/-*/corosync-sys-* target/verified
	cargo package -p actix-quorum -p corosync-sys --allow-dirty --quiet --target-dir target/verified
	rm -rf target/verified
