# `just` lists these.

_default:
    @just --list --unsorted

# the main job: every scenario on the simulated Xen
run *ARGS:
    cargo run --release -- {{ARGS}}

# a real Xen in QEMU, and every scenario that makes sense there
lab *ARGS:
    cargo run --release -- lab {{ARGS}}

# the exact cycle of QubesOS/qubes-issues#7481 on a real Xen: found, status 3
cycle *ARGS:
    cargo run --release -- lab --kernel sid --guest pv --gntdev sync --scenario hold-unmap --hold rdma-odp {{ARGS}}

# the simulated Xen against rules written from the kernel's and the hypervisor's sources
conform *ARGS:
    cargo run --release -- conform {{ARGS}}

# the five discussions, in every interleaving
model *ARGS:
    cargo run --release -- model check {{ARGS}}

# every test
test:
    cargo test --workspace

# format, lints, documentation, as CI checks them
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo clippy --package libgnt --all-targets --no-default-features -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# the lock-free parts, every interleaving
loom:
    CARGO_TARGET_DIR=target/loom RUSTFLAGS="--cfg loom" cargo test --release --package libgnt --lib loom

# shared memory, rings and states under Miri, which it installs
miri:
    .ci/miri

# the benchmarks whose figures stand in docs/performance.md
bench:
    cargo bench --package libgnt --bench ring
    cargo bench --package pv-stress
    cargo bench --package pv-models

# what CI runs
ci:
    .ci/run
