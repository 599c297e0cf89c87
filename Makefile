# The features of actix-quorum; `linked` needs libquorum's development files.
FEATURES = linked metrics serde sim web
# Those that build anywhere.
PORTABLE = metrics serde sim web

# How long `make fuzz` and `make soak` go on, in seconds.
FUZZ_SECONDS = 600
SOAK_SECONDS = 600

# How often `make flaky` runs all tests, and how often those that assert times.
RUNS = 10
TIMED_RUNS = 50

# The one build of the tests, without the benchmarks; and how the tests run: side by side, for most of
# them wait. The soak is in `make test-long`.
TREE = --locked --workspace --exclude actix-quorum-benches --features '$(PORTABLE)'
RUN = --include-ignored --skip soak:: --test-threads=8

.PHONY: help cluster cluster-down test test-stages test-long test-long-stages test-versions flaky soak \
	bench overlap instructions loom histories linked sanitize fuzz corpus check fmt clippy doc features \
	dependencies minimal package

help:
	@echo 'make test       every functional test, on real Corosync daemons and in a browser too (needs root)'
	@echo 'make test-long  what takes long: loom, histories, linked, sanitizers, fuzzing, soak, versions (needs root)'
	@echo 'make test-versions  the tests on real daemons of other Corosync versions (needs root, Debian)'
	@echo 'make check      format, lints, docs, feature combinations, dependencies'
	@echo 'make flaky RUNS=n  runs the tests n times, every other time on a busy machine (needs root)'
	@echo 'make soak       ten minutes of chaos on a real cluster; SOAK_SECONDS=n for others (needs root)'
	@echo 'make fuzz       ten minutes of whatever could come from Corosync; FUZZ_SECONDS=n for others'
	@echo 'make sanitize   the calls of libquorum under the address and leak sanitizers (needs root)'
	@echo 'make instructions  checks that the hot paths take no more instructions than stored'
	@echo 'make bench      measures it beside what else could be used, see BENCHMARKS.md (needs root)'
	@echo 'make overlap    whether two partitions are ever believed at once, see BENCHMARKS.md (needs root)'
	@echo 'make cluster    three nodes to try things on, and cluster-down removes them (needs root)'

# Three nodes to try things on; it says how to break them.
cluster:
	scripts/install-test-deps
	scripts/cluster up

cluster-down:
	scripts/cluster down

# Nothing is skipped: a missing daemon, or browser, is a failure.
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

# Prints the tests that fail in some of many runs; see the script.
flaky:
	scripts/check-machine
	scripts/install-test-deps
	RUNS=$(RUNS) TIMED_RUNS=$(TIMED_RUNS) scripts/flaky $(TREE) -- $(RUN)

# Every order in which the parts that take no lock can run.
loom:
	RUSTFLAGS='--cfg loom_check' cargo test --lib in_every_order

# Ten times as many histories of the simulated cluster as `cargo test` runs.
histories:
	PROPTEST_CASES=10000 cargo test $(TREE) --lib -- property::

# The tests on real daemons against the Corosync of other Debian releases, daemon and library, and mixed;
# prints a table.
test-versions:
	scripts/install-test-deps
	scripts/versions $(TREE)

# With libquorum linked, where the other tests load it.
LINKED = cargo test --locked --workspace --exclude actix-quorum-benches --all-features --tests

linked:
	$(LINKED)
	$(LINKED) -- --ignored --test-threads=8 handle:: load:: abi::

# Chaos on a real cluster.
soak:
	scripts/install-test-deps
	SOAK_SECONDS=$(SOAK_SECONDS) cargo test $(TREE) --test own -- --ignored --nocapture soak::

# What BENCHMARKS.md tells. A missed budget is printed, and fails nothing: it may be the machine.
bench:
	scripts/install-bench-deps
	cargo bench -p actix-quorum-benches --bench quorum

# Whether a node is believed while the others go on without it, and for how long, on three real nodes.
# OVERLAP_RUNS=n repeats it, OVERLAP_TOKEN=default or milliseconds sets the token, OVERLAP_ONLY=text
# selects rows (`knet`, `paused`, `udpu cut`). Fails if a budget is missed.
overlap:
	scripts/install-bench-deps
	cargo bench -p actix-quorum-benches --bench overlap

# That the hot paths take no more instructions than stored, which no busy machine changes.
instructions:
	scripts/install-check-deps
	cargo bench -p actix-quorum-benches --bench instructions

# Whatever could come from Corosync, beginning with the stored corpus. What adds to its coverage is
# kept in fuzz/found. A stable compiler has the address sanitizer only if it is told to.
FUZZ = RUSTC_BOOTSTRAP=1 cargo fuzz run tracker

fuzz:
	scripts/install-long-deps
	mkdir -p fuzz/found
	$(FUZZ) fuzz/found fuzz/corpus/tracker -- -max_len=512 -max_total_time=$(FUZZ_SECONDS) \
		-print_final_stats=1

# Stores the fewest of the inputs found, and of those stored before, that cover as much.
corpus:
	mv fuzz/corpus/tracker fuzz/corpus/before && mkdir fuzz/corpus/tracker
	$(FUZZ) fuzz/corpus/tracker fuzz/corpus/before fuzz/found -- \
		-set_cover_merge=1 -use_counters=0
	rm -r fuzz/corpus/before fuzz/found

# The address and leak sanitizers over the callbacks, every call on a real daemon, and its deaths. The
# check of the stack measures the real one, so there may be no other; and as the deaths are not to
# take memory, what was freed is not kept for long.
SANITIZED = RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address \
	ASAN_OPTIONS=detect_stack_use_after_return=0:quarantine_size_mb=1 \
	cargo test --target "$$(rustc --print host-tuple)" --features sim

sanitize:
	scripts/install-test-deps
	$(SANITIZED) --lib -- --include-ignored --skip property::
	$(SANITIZED) --test it --test own -- --include-ignored --test-threads=4 handle:: reconnect::

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

# No crate stands twice in what is linked (the macros' own crates run at build time); licences and
# bans as deny.toml says.
dependencies:
	@echo 'cargo tree --duplicates'; \
	duplicates=$$(cargo tree --workspace --all-features --duplicates -e normal,no-proc-macro) && \
	if [ -n "$$duplicates" ]; then echo "$$duplicates"; exit 1; fi
	scripts/install-check-deps
	cargo deny check bans licenses sources

# The oldest versions that Cargo.toml asks for are enough. In a copy, as it changes Cargo.lock.
minimal:
	rm -rf target/minimal && mkdir -p target/minimal
	cp -r Cargo.toml Cargo.lock README.md FAILURES.md GUIDE.md src corosync-sys target/minimal
	sed -i 's/^members = .*/members = ["corosync-sys"]/' target/minimal/Cargo.toml
	cd target/minimal && RUSTC_BOOTSTRAP=1 cargo update --quiet -Z direct-minimal-versions && \
		cargo check --quiet --target-dir ../minimal-build --features '$(PORTABLE)'

# Both crates build from what is packaged alone.
package:
	# Cargo reuses what it unpacked and built of an earlier package of the same version.
	rm -rf "$${CARGO_HOME:-$$HOME/.cargo}"/registry/src/-*/corosync-sys-* target/verified
	cargo package -p actix-quorum -p corosync-sys --allow-dirty --quiet --target-dir target/verified
	rm -rf target/verified
