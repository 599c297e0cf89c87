# The features of actix-quorum; `linked` needs libquorum's development files.
FEATURES = linked metrics serde sim web
# Those that build anywhere.
PORTABLE = metrics serde sim web

.PHONY: help test soak check fmt clippy doc features dependencies

help:
	@echo 'make test   run every test, those on real Corosync daemons too (needs root)'
	@echo 'make soak   ten minutes of chaos on a real cluster (needs root)'
	@echo 'make check  format, lints, docs, feature combinations, dependencies'

# Nothing is skipped: without root or Corosync the ignored tests fail. The library is loaded in the
# first three runs and linked in the others.
test:
	scripts/install-test-deps
	cargo test --workspace
	PROPTEST_CASES=10000 cargo test --test property
	cargo test --workspace --features '$(PORTABLE)' --tests -- --ignored --test-threads=4
	cargo test --workspace --all-features
	cargo test -p corosync-sys --features linked --tests -- --ignored
	cargo test --all-features --test handle -- --ignored --test-threads=4

# Ten minutes of chaos on a real cluster.
soak:
	scripts/install-test-deps
	SOAK_SECONDS=600 cargo test --test soak -- --ignored --nocapture

check: fmt clippy doc features dependencies

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
