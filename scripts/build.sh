#!/usr/bin/env bash
# Builds the binary. The first time takes long, says so, and shows how far it is.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=/dev/null
[ -e "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/townlake/target}"
if [ ! -x "$CARGO_TARGET_DIR/debug/townlake" ]; then
    echo "Building Town Lake with all its dependencies: about 45 minutes on two cores, once."
    echo "(TOWNLAKE_BIN=/path/to/townlake make demo uses a binary that you have.)"
fi
# Never quiet: also with a binary there, a moved dependency takes minutes.
cargo build -p townlake --bin townlake
