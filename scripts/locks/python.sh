#!/bin/sh
# Resolves every docker/*/*.in into a hash lock. Needs uv; writes no index addresses.
#   usage: scripts/locks/python.sh [--upgrade] [--exclude-newer DATE]
# Without --upgrade, versions in a lock stay as long as they satisfy the requirements.
set -eu
cd "$(dirname "$0")/../../docker"
date=2026-11-20 upgrade=
[ "${1:-}" = --upgrade ] && upgrade=--upgrade && shift
[ "${1:-}" = --exclude-newer ] && date=$2
python=3.9 platform=x86_64-manylinux_2_31
lock() { # IN OUT [OVERRIDES [CONSTRAINTS]]
    set -- "$1" "$2" ${3:+--override "$3"} ${4:+--constraint "$4"}
    in=$1 out=$2
    shift 2
    uv pip compile "$in" "$@" --python-version "$python" --python-platform "$platform" \
        --generate-hashes --no-header --no-annotate --no-emit-index-url --exclude-newer "$date" \
        --quiet $upgrade --output-file "$out"
    echo "$out: $(grep -c == "$out") packages"
}
lock build-tools.in build-tools.lock
lock odapi/requirements.in odapi/requirements.lock odapi/overrides.txt
lock odapi/metadata.in odapi/metadata.lock odapi/metadata-overrides.txt
# Of Debian 13; the newest platform that uv knows is that of an older glibc.
python=3.13 platform=x86_64-manylinux_2_40
lock device/requirements.in device/requirements.lock device/overrides.txt
python=3.9 platform=x86_64-manylinux_2_31
# Model Maker is no longer maintained and sets few upper bounds: later releases of its requirements
# (model optimization, Keras) do not work with it. This date is independent of the one above.
date=2024-02-01
lock modelmaker/requirements.in modelmaker/full.lock modelmaker/full-overrides.txt
# The same versions, so that the two can be compared.
lock modelmaker/requirements.in modelmaker/requirements.lock modelmaker/overrides.txt modelmaker/full.lock
