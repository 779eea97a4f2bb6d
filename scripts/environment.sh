#!/usr/bin/env bash
# Makes .venv as the lock files say, and does nothing when it is so already.
#
#   scripts/environment.sh                 what Sightline runs on
#   scripts/environment.sh development     and what its tests and checks need
#   scripts/environment.sh jars            what Spark needs for S3 and lineage, in .sightline/jars
#   scripts/environment.sh cluster         and what the tests of a cluster need: these jars, Postgres
#   scripts/environment.sh peers           the benchmarks' peers, in .sightline/peers and .sightline/peers-fetch
#   scripts/environment.sh lock            writes the lock files anew from requirements*.in
#
# Needs Python 3.11, git, and pip or uv. An install that was interrupted is made again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

STATE=${SIGHTLINE_STATE:-.sightline}
LOG=$STATE/environment.log
UNFINISHED=.venv/.unfinished # stands while packages are being installed

main() {
    mkdir -p "$STATE"
    : >"$LOG"
    case ${1:-} in
    lock) write_locks ;;
    peers) make_peers ;;
    jars) make_jars ;;
    cluster)
        make_environment
        add_development
        add_postgres
        make_jars || echo "The tests of a cluster are skipped." >&2
        ;;
    development)
        make_environment
        add_development
        ;;
    "") make_environment ;;
    *) fail "scripts/environment.sh knows 'development', 'jars', 'cluster', 'peers' and 'lock', not '$1'." ;;
    esac
}

make_environment() {
    check_java
    local wanted
    wanted="$PWD $(hash_of requirements.txt)"
    if [ -e $UNFINISHED ] || [ "$(stamp_of packages)" != "$wanted" ] || ! .venv/bin/python -c ''; then
        find_uv
        rm -f .venv/.stamp-* # first, or an interrupted removal could pass for a whole environment
        rm -rf .venv
        step "Python environment .venv" uv venv --quiet --python 3.11 .venv
        touch $UNFINISHED
        step "packages (torch, Spark, Airflow: 7 GB, minutes when they are downloaded)" \
            install_packages --compile-bytecode -r requirements.txt
        finish packages "$wanted"
    fi
    wanted=$(hash_of pyproject.toml)
    if [ "$(stamp_of sightline)" != "$wanted" ]; then
        find_uv
        touch $UNFINISHED
        step "the sightline command" install_packages --editable .
        finish sightline "$wanted"
    fi
    if [ ! -e .venv/.stamp-prepared ] || [ ! -e "$STATE/airflow/migrated" ]; then
        .venv/bin/sightline prepare || echo "Starts will be slower; that is all." >&2
        finish prepared yes
    fi
}

add_development() {
    add_browser
    add_compiler
    local wanted
    wanted=$(hash_of requirements-dev.txt)
    if [ "$(stamp_of development)" != "$wanted" ]; then
        find_uv
        touch $UNFINISHED
        step "packages for tests and checks" install_packages --compile-bytecode -r requirements-dev.txt
        finish development "$wanted"
    fi
}

# For the tests of the pages, which are skipped where there is none.
add_browser() {
    command -v chromium >/dev/null || command -v chromium-browser >/dev/null && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "Debian's Chromium, for the tests of the pages ..."
        install_debian chromium >>"$LOG" 2>&1 && return
    fi
    echo "There is no Chromium here, so the tests of the pages in a browser are skipped." >&2
}

# For the test of nights on which the clock jumps, which is skipped where there is none.
add_compiler() {
    command -v cc >/dev/null && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "Debian's C compiler, for a test with a clock that jumps ..."
        install_debian gcc libc6-dev >>"$LOG" 2>&1 && return
    fi
    echo "There is no C compiler here, so the test with a clock that jumps is skipped." >&2
}

install_debian() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update
    apt-get install -y --no-install-recommends "$@"
}

# For the tests of a cluster, which are skipped where there is none.
add_postgres() {
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "Debian's Postgres, for the tests of a cluster ..."
        install_debian postgresql >>"$LOG" 2>&1 && return
    fi
    echo "There is no Postgres here, so the tests of a cluster are skipped." >&2
}

# Into a new folder first: one that stands is whole.
make_jars() {
    local place=${SIGHTLINE_JARS:-$STATE/jars} wanted
    wanted=$(hash_of deploy/jars/pom.xml)
    [ "$(cat "$place/.stamp" 2>/dev/null)" = "$wanted" ] && return
    if ! command -v mvn >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        step "Maven from the system's packages" install_debian maven
    fi
    rm -rf "$place.new"
    echo "Spark's jars for S3 and lineage, from Maven Central ..."
    if ! mvn --batch-mode --quiet --file deploy/jars/pom.xml dependency:copy-dependencies \
        "-DoutputDirectory=$(realpath -m "$place.new")" >>"$LOG" 2>&1; then
        echo "Maven does not get Spark's jars ($(grep -m 1 -o 'Could not .*' "$LOG" || echo "see $LOG"))." >&2
        return 1
    fi
    echo "$wanted" >"$place.new/.stamp"
    rm -rf "$place"
    mv "$place.new" "$place"
}

# What the benchmarks compare with may not share an environment with Airflow; img2dataset imports what it
# finds, torch and Ray too, and would start slowly beside the others.
make_peers() {
    make_peer_environment peers
    make_peer_environment peers-fetch
}

make_peer_environment() {
    local place=$STATE/$1 requirements=benchmarks/requirements-$1.txt
    [ "$(cat "$place/.stamp" 2>/dev/null)" = "$(hash_of "$requirements")" ] && return
    find_uv
    rm -rf "$place"
    step "Python environment $place" uv venv --quiet --python 3.11 "$place"
    step "the benchmarks' $1 (up to 4 GB)" uv pip install --quiet --python "$place/bin/python" --no-deps \
        -r "$requirements"
    hash_of "$requirements" >"$place/.stamp"
}

write_locks() {
    find_uv
    local compile=("$UV" pip compile --quiet --python-version 3.11 --no-emit-index-url)
    "${compile[@]}" --override requirements-overrides.txt requirements.in -o requirements.txt
    "${compile[@]}" requirements-dev.in -o requirements-dev.txt
    "${compile[@]}" benchmarks/requirements-peers.in -o benchmarks/requirements-peers.txt
    "${compile[@]}" benchmarks/requirements-peers-fetch.in -o benchmarks/requirements-peers-fetch.txt
}

# Spark 4.3 needs Java 17 with the incubator module that some slim runtimes leave out.
check_java() {
    has_java && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        step "Java 17 from the system's packages" install_java
        has_java && return
    fi
    fail "Sightline needs a Java 17 or newer with the module jdk.incubator.vector: install it with" \
        "'sudo apt-get install openjdk-17-jdk-headless' (macOS: 'brew install openjdk@17'; elsewhere" \
        "adoptium.net), or set JAVA_HOME, and run this again."
}

has_java() {
    local modules version
    modules=$("${JAVA_HOME:+$JAVA_HOME/bin/}java" --list-modules 2>/dev/null) || return 1
    version=$(sed -n 's/^java\.base@\([0-9]*\).*/\1/p' <<<"$modules")
    grep -q '^jdk\.incubator\.vector' <<<"$modules" && [ "${version:-0}" -ge 17 ]
}

install_java() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update
    apt-get install -y --no-install-recommends openjdk-17-jdk-headless ||
        apt-get install -y --no-install-recommends openjdk-21-jdk-headless
}

# uv of the machine, else our own: pip's --target works where the system's Python is closed to pip.
find_uv() {
    [ -n "${UV:-}" ] && return
    if uv --version >/dev/null 2>&1; then
        UV=uv
        return
    fi
    UV=$STATE/uv/bin/uv
    "$UV" --version >/dev/null 2>&1 && return
    local python
    python=$(command -v python3.11 || command -v python3) || fail "Sightline needs Python 3.11."
    rm -rf "$STATE/uv"
    step "uv, which installs the packages" "$python" -m pip install --quiet --target "$STATE/uv" uv
}

uv() { command "${UV:-uv}" "$@"; }

install_packages() { uv pip install --quiet --python .venv/bin/python --no-deps "$@"; }

# One line for each step: what it makes, and how long it took.
step() {
    local what=$1 began=$SECONDS
    shift
    printf '%s ... ' "$what"
    if ! "$@" >>"$LOG" 2>&1; then
        echo failed
        tail -n 5 "$LOG" >&2
        fail "All of its output is in $LOG."
    fi
    echo "$((SECONDS - began)) s"
}

finish() {
    echo "$2" >".venv/.stamp-$1"
    rm -f $UNFINISHED
}

stamp_of() { cat ".venv/.stamp-$1" 2>/dev/null || true; }

hash_of() { cksum <"$1"; }

fail() {
    echo "$*" >&2
    exit 1
}

main "$@"
