#!/usr/bin/env bash
# Lint, build, unit tests, end-to-end tests, clients nobody here wrote. `make test` calls it after setup.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/townlake/target}"
TOWNLAKE_VENV="${TOWNLAKE_VENV:-$HOME/.cache/townlake/venv}"
# shellcheck source=/dev/null
[ -e "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"

step() { printf '\033[1m▸ %s (%s)\033[0m\n' "$*" "$(date +%H:%M:%S)"; }

step "lint"
scripts/lint.sh

step "build"
scripts/build.sh
export TOWNLAKE_BIN="${TOWNLAKE_BIN:-$CARGO_TARGET_DIR/debug/townlake}"
export TOWNLAKE_PYTHON="$TOWNLAKE_VENV/bin/python"

step "unit tests"
cargo test --workspace --lib --bins --quiet

step "end-to-end tests"
cargo test -p townlake-tests --test it -- --skip chaos:: --test-threads=2

postgres18="${TOWNLAKE_POSTGRES_18:-$HOME/.cache/townlake/postgres-18.4.0}"
if [ -e "$postgres18/complete.stamp" ]; then
    step "end-to-end tests of Postgres, on 18"
    # Where we are root, Postgres runs as another user, to whom a home is closed.
    copy=$(mktemp -d)
    trap 'rm -rf "$copy"' EXIT
    cp -R "$postgres18/." "$copy"
    chmod -R a+rX "$copy"
    # What makes a standby (pg_basebackup) is not among its programs.
    TOWNLAKE_POSTGRES_BIN="$copy/bin" cargo test -p townlake-tests --test it -- postgres:: --skip postgres::standby:: --test-threads=2
fi

# One at a time: they kill processes and watch what the others do then, on a machine of two cores.
step "chaos"
cargo test -p townlake-tests --test it -- chaos:: --test-threads=1

step "Python clients"
"$TOWNLAKE_PYTHON" -m pytest -q tests/python
