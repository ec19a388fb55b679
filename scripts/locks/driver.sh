#!/bin/sh
# Resolves the driver's own requirements (pyproject.toml) into hash locks for Python 3.10 and
# later: requirements.lock to run kiln, requirements-dev.lock to test it too. Needs uv; writes no
# index addresses.
#   usage: scripts/locks/driver.sh [--upgrade] [--exclude-newer DATE]
# Without --upgrade, versions in a lock stay as long as they satisfy the requirements.
set -eu
cd "$(dirname "$0")/../.."
date=2026-11-01 upgrade=
[ "${1:-}" = --upgrade ] && upgrade=--upgrade && shift
[ "${1:-}" = --exclude-newer ] && date=$2
lock() { # OUT ARGUMENTS... (more requirements on standard input)
    out=$1
    shift
    uv pip compile "$@" --universal \
        --python-version 3.10 --generate-hashes --no-header --no-annotate --no-emit-index-url \
        --exclude-newer "$date" --quiet $upgrade --output-file "$out"
    echo "$out: $(grep -c == "$out") packages"
}
build='setuptools>=77'
echo "$build" | lock scripts/locks/requirements.lock pyproject.toml -
echo "$build" | lock scripts/locks/requirements-dev.lock pyproject.toml - --extra dev
