# The features of actix-quorum; `linked` needs libquorum's development files.
FEATURES = linked metrics serde sim web
# Those that build anywhere.
PORTABLE = metrics serde sim web

# How long `make fuzz` goes on.
FUZZ_SECONDS = 600

.PHONY: help cluster cluster-down test soak bench instructions sanitize fuzz corpus check fmt clippy \
	doc features dependencies minimal package

help:
	@echo 'make test   run every test, those on real Corosync daemons too (needs root)'
	@echo 'make soak   ten minutes of chaos on a real cluster (needs root)'
	@echo 'make bench  measure it beside what else could be used, see BENCHMARKS.md (needs root)'
	@echo 'make sanitize  the calls of libquorum under the address and leak sanitizers (needs root)'
	@echo 'make instructions  that the hot paths take no more than stored'
	@echo 'make fuzz   ten minutes of whatever could come from Corosync; FUZZ_SECONDS=n for others'
	@echo 'make cluster  three nodes to try things on, and cluster-down removes them (needs root)'
	@echo 'make check  format, lints, docs, feature combinations, dependencies'

# Three nodes to try things on; it says how to break them.
cluster:
	scripts/install-test-deps
	scripts/cluster up

cluster-down:
	scripts/cluster down

# Nothing is skipped: without root or Corosync the ignored tests fail. Those with all features link the
# library, the others load it.
test:
	scripts/install-test-deps
	cargo test --workspace
	PROPTEST_CASES=10000 cargo test --test property
	RUSTFLAGS='--cfg loom_check' cargo test --lib in_every_order
	cargo test --workspace --features '$(PORTABLE)' --tests -- --ignored --test-threads=4
	cargo test --workspace --all-features
	cargo test -p corosync-sys --features linked --tests -- --ignored
	cargo test --all-features --test handle -- --ignored --test-threads=4
	$(MAKE) fuzz FUZZ_SECONDS=30
	$(MAKE) sanitize

# Ten minutes of chaos on a real cluster.
soak:
	scripts/install-test-deps
	SOAK_SECONDS=600 cargo test --test soak -- --ignored --nocapture

# What BENCHMARKS.md tells. A missed budget is printed, and fails nothing: it may be the machine.
bench:
	scripts/install-bench-deps
	cargo bench -p actix-quorum-benches --bench quorum

# That the hot paths take no more instructions than stored, which no busy machine changes.
instructions:
	scripts/install-check-deps
	cargo bench -p actix-quorum-benches --bench instructions

# Whatever could come from Corosync, beginning with the stored corpus. What adds to its coverage is
# kept in fuzz/found. A stable compiler has the address sanitizer only if it is told to.
FUZZ = RUSTC_BOOTSTRAP=1 cargo fuzz run tracker

fuzz:
	scripts/install-check-deps
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
sanitize:
	scripts/install-test-deps
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address \
	ASAN_OPTIONS=detect_stack_use_after_return=0:quarantine_size_mb=1 \
	cargo test --target "$$(rustc --print host-tuple)" --features sim \
		--lib --test handle --test reconnect -- --include-ignored --test-threads=4

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
	sed -i 's/"benches", //' target/minimal/Cargo.toml
	cd target/minimal && RUSTC_BOOTSTRAP=1 cargo update --quiet -Z direct-minimal-versions && \
		cargo check --quiet --target-dir ../minimal-build --features '$(PORTABLE)'

# Both crates build from what is packaged alone.
package:
	cargo package -p actix-quorum -p corosync-sys --allow-dirty --quiet
