#!/usr/bin/env bash
# Lint, build, unit tests, end-to-end tests, clients nobody here wrote. `make test` calls it after setup.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -e "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"

step() { printf '\033[1m▸ %s (%s)\033[0m\n' "$*" "$(date +%H:%M:%S)"; }

step "lint"
scripts/lint.sh

step "build"
scripts/build.sh
export TOWNLAKE_BIN="${TOWNLAKE_BIN:-$CARGO_TARGET_DIR/debug/townlake}"
export TOWNLAKE_PYTHON="$TOWNLAKE_VENV/bin/python"

step "unit and end-to-end tests"
cargo test --workspace --quiet -- --skip soak_only

step "Python clients"
"$TOWNLAKE_PYTHON" -m pytest -q tests/python
