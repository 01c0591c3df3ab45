#!/usr/bin/env bash
# Format, clippy with warnings denied, the one allowed second Arrow, licences and sources.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/townlake/target}"
# shellcheck source=/dev/null
[ -e "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
cargo fmt --all --check
cargo clippy --workspace --all-targets --quiet -- -D warnings

# DataFusion, Arrow and object_store exist once, but for the Arrow 58 that iceberg brings (ARCHITECTURE.md, "Versions").
extra=$(cargo tree --workspace --duplicates --depth 0 2>/dev/null \
    | awk '/^(arrow|parquet|datafusion|object_store|ballista)/ && $2 !~ /^v(59|58)\./ {print $1, $2}' | sort -u)
if [ -n "$extra" ]; then
    echo "second copies of engine crates: $extra" >&2
    exit 1
fi

if ! cargo deny --version >/dev/null 2>&1; then
    echo "installing cargo-deny (a few minutes, once)"
    cargo install cargo-deny --locked --debug --quiet
fi
cargo deny --log-level error check licenses bans sources
