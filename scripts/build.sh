#!/usr/bin/env bash
# Builds the binary. The first time takes long, and says so.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -e "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
if [ ! -x "$CARGO_TARGET_DIR/debug/townlake" ]; then
    echo "Building Town Lake with all its dependencies: about 45 minutes on two cores, once."
    echo "(TOWNLAKE_BIN=/path/to/townlake make demo uses a binary that you have.)"
fi
cargo build --quiet -p townlake --bin townlake
