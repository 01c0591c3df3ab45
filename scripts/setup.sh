#!/usr/bin/env bash
# Installs what is missing for `build`, `demo` (build + servers) or `test` (demo + clients), and says what it does.
# Debian 12, as root or with sudo. Without either it tells what to install.
set -euo pipefail

level="${1:?usage: setup.sh build|demo|test}"
say() { printf '\033[1m▸ %s\033[0m\n' "$*"; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

can_be_root() {
    [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null || { [ -t 0 ] && command -v sudo >/dev/null; }
}

# A package is wanted when the file it brings is not there.
wanted=()
want() { # package file…
    local package="$1"
    shift
    for file in "$@"; do
        if [ "${file#/}" = "$file" ]; then
            command -v "$file" >/dev/null 2>&1 && return
        else
            compgen -G "$file" >/dev/null && return
        fi
    done
    wanted+=("$package")
}

if [ -z "${TOWNLAKE_BIN:-}" ]; then
    want build-essential cc
    want mold mold
    want protobuf-compiler protoc
    want libprotobuf-dev /usr/include/google/protobuf/descriptor.proto
    want curl curl
    want ca-certificates /etc/ssl/certs/ca-certificates.crt
fi
if [ "$level" != build ] && [ "${DEMO_FLAGS:-}" != "--embedded" ]; then
    want etcd-server etcd
    want postgresql "/usr/lib/postgresql/*/bin/postgres" postgres
fi
if [ "$level" = test ]; then
    want python3-venv "/usr/lib/python3*/ensurepip" "$HOME/.pyenv/versions"
    want default-jdk-headless javac
    want maven mvn
fi

if [ "${#wanted[@]}" -gt 0 ]; then
    if ! can_be_root; then
        echo "These Debian packages are missing, and installing them takes root or sudo:" >&2
        echo "    apt-get install ${wanted[*]}" >&2
        echo "Without Postgres and etcd there is: make demo DEMO_FLAGS=--embedded" >&2
        exit 1
    fi
    say "installing Debian packages: ${wanted[*]}"
    # The servers are started by us, on ports of our own: keep the packages from starting theirs.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod +x "$policy"
        trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${wanted[@]}" >/dev/null
fi

if [ -z "${TOWNLAKE_BIN:-}" ]; then
    [ -e "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
    version=$(cargo --version 2>/dev/null | awk '{print $2}' || true)
    if ! printf '1.94.0\n%s\n' "${version:-0}" | sort -C -V; then
        say "installing Rust (cargo ≥ 1.94 is needed, found ${version:-none})"
        curl --proto '=https' --tlsv1.2 -fsS https://sh.rustup.rs | sh -s -- -y --profile minimal -c clippy -c rustfmt
    fi
fi

if [ "$level" = test ]; then
    lock="$(dirname "$0")/../tests/python/requirements.txt"
    stamp="$TOWNLAKE_VENV/requirements.stamp"
    if ! cmp -s "$lock" "$stamp"; then
        say "installing Python clients into $TOWNLAKE_VENV"
        python3 -m venv "$TOWNLAKE_VENV"
        "$TOWNLAKE_VENV/bin/pip" install -q --disable-pip-version-check -r "$lock"
        cp "$lock" "$stamp"
    fi
    jars="${TOWNLAKE_JARS:-$HOME/.cache/townlake/jars}"
    if ! compgen -G "$jars/flight-sql-jdbc-driver-*.jar" >/dev/null; then
        say "fetching the Flight SQL JDBC driver into $jars"
        mvn -q -B dependency:copy -Dartifact=org.apache.arrow:flight-sql-jdbc-driver:18.3.0 -DoutputDirectory="$jars"
    fi
fi
