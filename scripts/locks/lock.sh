#!/bin/sh
# Updates all locks to the newest versions that existed on a day, and lists the changes.
#   usage: scripts/locks/lock.sh [DATE]     a day, YYYY-MM-DD; a week ago when none is given
# A week: a malicious or broken release has usually been removed by then.
set -eu
cd "$(dirname "$0")/../.."
date=${1:-$(date -u -d '7 days ago' +%Y-%m-%d)}
PATH=$PWD/.venv/bin:$PATH
before=$(mktemp -d)
trap 'rm -rf "$before"' EXIT INT TERM
mkdir "$before/docker" "$before/scripts"
find docker scripts -name '*.lock' | while read -r lock; do
    mkdir -p "$before/$(dirname "$lock")"
    cp "$lock" "$before/$lock"
done
echo "lock: nothing newer than $date"
scripts/locks/debian.sh --exclude-newer "$date"
scripts/locks/python.sh --upgrade --exclude-newer "$date"
scripts/locks/driver.sh --upgrade --exclude-newer "$date"
PYTHONPATH=scripts python -m locks.lock_changes --before "$before"
