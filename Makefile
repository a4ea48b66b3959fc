# `make` lists the targets. Everything here is a thin shell around cargo.

.PHONY: help build test check run demo designs build-bench bench bench-against bench-redis \
  bench-peers bench-hits bench-crowd bench-growth docs clean test-against backup-copies cluster \
  test-idle test-disks faults simulate exercises exercise torture fuzz interop steps step \
  bench-steps

needs-addr = @test -n "$(ADDR)" || \
  { echo "give the server's address: make $@ ADDR=127.0.0.1:11212" >&2; exit 2; }

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

build: ## build the three programs, optimised
	cargo build --release

test: ## run every test
	cargo test

check: ## what has to pass before a change lands
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items
	$(MAKE) test

run: ## start a server on 127.0.0.1:11211, its data in ./data
	cargo run --release --bin server -- -v

demo: ## play a scenario: kill -9 under load, and nothing is lost
	cargo run --bin driver -- --test 7

test-against: ## replay the dialogues against ADDR=host:port, which is flushed
	$(needs-addr)
	MEMCACHED_ADDR=$(ADDR) cargo test --test wire

test-disks: ## full, failing and vanishing disks; what can't be tried is a failure
	DISKS_REQUIRED=1 cargo test --test disks

faults: ## fail every call to the disk, in SEEDS=n workloads
	FAULT_SEEDS=$(or $(SEEDS),20) cargo test --release --test faults

backup-copies: ## 200 copies, or COPIES=n, of a directory in use; a minute
	COPIES=$(or $(COPIES),200) cargo test --test backup a_copy -- --nocapture

test-idle: ## 10,000 idle connections, or IDLE=n, while one client works
	IDLE=$(or $(IDLE),10000) cargo test --release --test server idle_connections

simulate: ## a whole server on one thread: SEEDS=n (1000) worlds, or that of SEED=n
	SEEDS=$(or $(SEEDS),$(if $(SEED),1,1000)) SEED=$(or $(SEED),1) \
	  cargo test --release --test simulate -- --nocapture

exercises: ## plant each fault of docs/exercises.md in a copy, have its test find it: 15 minutes
	cargo test --test exercises -- --ignored --nocapture

exercise: ## that of N=7: predict which test fails, press Enter, and see
	@test -n "$(N)" || { echo "make exercise N=7; see docs/exercises.md" >&2; exit 2; }
	@EXERCISE=$(N) cargo test --quiet --test exercises -- --ignored --nocapture

torture: ## kill servers under load, ROUNDS=1000 times and more, from SEED=1 on: minutes
	ROUNDS=$(or $(ROUNDS),1000) SEED=$(or $(SEED),1) \
	  cargo test --release --test torture -- --nocapture

fuzz: ## noise over the wire in each dialect, for SECONDS=n (60), from SEED=n (1) on
	FUZZ_SECONDS=$(or $(SECONDS),60) FUZZ_SEED=$(or $(SEED),1) \
	  cargo test --test fuzz -- --nocapture

# The benchmark starts the server that cargo has built beside it.
BENCH = $(or $(CARGO_TARGET_DIR),target)/release/examples/bench
build-bench:
	cargo build --release --bin server --example bench --example growth

bench: build-bench ## measure, with 50 to 400 connections: about a minute
	$(BENCH)

bench-against: build-bench ## the same beside ADDR=host:port, which is flushed: two minutes
	$(needs-addr)
	$(BENCH) --against $(ADDR)

bench-redis: build-bench ## beside the Redis at ADDR=host:port, which is flushed: SYNC=always
	$(needs-addr)
	for set in 1 0; do for pipeline in 1 16; do $(BENCH) --conns 50 --set $$set --seconds 1 \
	  --pipeline $$pipeline --redis $(ADDR) -- --sync $(or $(SYNC),always) || exit 1; done; done

bench-peers: build-bench ## what must be reached beside memcached and Redis: PAIRS=10, 8 minutes
	$(BENCH) --peers --seconds 1 --pairs $(or $(PAIRS),10)

bench-hits: build-bench ## how many gets of a cache hit, beside memcached: 3 minutes
	$(BENCH) --cache --zipf 0.99 --keys 280000 --value 1000 --conns 50 --seconds 5 --pairs 14

bench-crowd: build-bench ## amid 500 slow senders and 500 that do not read: half a minute
	$(BENCH) --conns 50 --set 0.5 --seconds 2 --slow-clients 500 --pairs 5

cluster: ## three servers behind nutcracker, of which one is killed; 10 seconds
	cargo build --release --bin server --bin driver
	python3 examples/cluster.py $(or $(CARGO_TARGET_DIR),target)/release

# The clients are installed once, below target/; only that needs the network.
CLIENTS = pymemcache==4.0.0 meta-memcache==4.3.0
VENV = target/venv
interop: ## have pymemcache and meta-memcache, clients in Python, try the server
	@python3 -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "interop needs python3 with its venv module (python3-venv)" >&2; exit 1; }
	cargo build --release --bin server
	@test "$$(cat $(VENV)/clients 2>/dev/null)" = "$(CLIENTS)" || \
	  { python3 -m venv --clear $(VENV) && \
	    $(VENV)/bin/pip install --quiet $(CLIENTS) && \
	    echo "$(CLIENTS)" > $(VENV)/clients; }
	$(VENV)/bin/python examples/pymemcache_client.py \
	  $(or $(CARGO_TARGET_DIR),target)/release/server

steps: ## play the table of docs/steps.md, and count what no scenario shows
	cargo build --examples
	cargo test --test steps -- --nocapture --test-threads 1

step: ## what step N=2 changes in the one before it; then run it, on PORT=11211
	@test -f examples/steps/$(N)-*.rs || \
	  { echo "make step N=1 to N=5; the sixth is src, see docs/steps.md" >&2; exit 2; }
	@mkdir -p target; test "$(N)" = 1 || \
	  diff -u examples/steps/$$(($(N) - 1))-*.rs examples/steps/$(N)-*.rs | tee target/step$(N).diff
	cargo run --example step$(N) -- --port $(or $(PORT),11211) --data target/step$(N)

bench-steps: build-bench ## the steps beside the server in src: two minutes
	cargo build --release --examples
	cargo test --release --test steps -- --ignored --nocapture

designs: ## measure six ways to store; DRAW=docs/designs.svg draws them, too
	cargo run --release --example designs -- $(or $(DRAW),target/designs.svg)

ONE = $(BENCH) --seconds 2 --conns 50 --set 0.1
bench-growth: build-bench ## how it grows: keys, values, connections; memory, starts, the disk
	cargo run --release --example growth
	cargo run --release --example growth -- 10000000
	for keys in 10000 100000 1000000 10000000; do $(ONE) --keys $$keys || exit 1; done
	for value in 50 4096 1000000; do $(ONE) --keys 100 --value $$value || exit 1; done
	$(BENCH) --seconds 2 --conns 1,50,400,1000,9000 --set 0.1

docs: ## the documentation of the code, as HTML
	cargo doc --no-deps --document-private-items

clean: ## remove what was built; the data stays
	cargo clean
