#!/bin/sh
# Resolves every docker/*/*.in into a hash lock. Needs uv; writes no index addresses.
#   usage: scripts/lock-python.sh [--exclude-newer DATE]
set -eu
cd "$(dirname "$0")/../docker"
date=2026-11-01
[ "${1:-}" = --exclude-newer ] && date=$2
lock() { # IN OUT [OVERRIDES]
    set -- "$1" "$2" ${3:+--override "$3"}
    in=$1 out=$2
    shift 2
    uv pip compile "$in" "$@" --python-version 3.9 --python-platform x86_64-manylinux_2_31 \
        --generate-hashes --no-header --no-annotate --no-emit-index-url --exclude-newer "$date" \
        --quiet --output-file "$out"
    echo "$out: $(grep -c == "$out") packages"
}
lock build-tools.in build-tools.lock
lock odapi/requirements.in odapi/requirements.lock odapi/overrides.txt
lock odapi/metadata.in odapi/metadata.lock odapi/metadata-overrides.txt
