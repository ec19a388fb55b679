#!/bin/sh
# Resolves the driver's own requirements (pyproject.toml) into hash locks for Python 3.10 and
# later: scripts/requirements.lock to run kiln, scripts/requirements-dev.lock to test it too.
# Needs uv; writes no index addresses.   usage: scripts/lock-driver.sh [--exclude-newer DATE]
set -eu
cd "$(dirname "$0")/.."
date=2026-11-01
[ "${1:-}" = --exclude-newer ] && date=$2
lock() { # OUT ARGUMENTS...
    out=$1
    shift
    printf 'setuptools>=77\n' | uv pip compile pyproject.toml - "$@" --universal \
        --python-version 3.10 --generate-hashes --no-header --no-annotate --no-emit-index-url \
        --exclude-newer "$date" --quiet --output-file "$out"
    echo "$out: $(grep -c == "$out") packages"
}
lock scripts/requirements.lock
lock scripts/requirements-dev.lock --extra dev
