#!/bin/sh
# Installs what some tests need of the system, as root on Debian or Ubuntu: a browser for the
# release's page, the graphics libraries that MediaPipe loads, and Podman as a second engine (its
# service is not needed). Unpacks independent programs that verify releases (test_tools.py). Does
# nothing if all of it is there; without it those tests are skipped, with the reason.
# With --offer it changes nothing; for root it prints one line that names what is missing.
set -eu
if [ "${1:-}" = --offer ] && { [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; }; then
    exit 0
fi
here=$(cd "$(dirname "$0")/../.." && pwd)
wanted=
if ! command -v chromium >/dev/null 2>&1 && ! command -v google-chrome >/dev/null 2>&1; then
    wanted="chromium"
fi
for library in libegl1:libEGL.so.1 libgles2:libGLESv2.so.2; do
    ldconfig -p | grep -q "${library#*:}" || wanted="$wanted ${library%%:*}"
done
for program in podman runc; do
    command -v $program >/dev/null 2>&1 || wanted="$wanted $program"
done
if [ "${1:-}" = --offer ]; then
    # shellcheck disable=SC2013
    for program in $(sed -n 's/^\([a-z][^ ]*\) .*/\1/p' "$here/scripts/setup/test-tools.lock"); do
        [ -x "$here/.tools/$program" ] || wanted="$wanted $program"
    done
    # shellcheck disable=SC2086
    set -- $wanted
    [ $# -gt 0 ] || exit 0
    echo "make test: tests that need $* will be skipped; \`make test-tools\` fetches all of it"
    exit 0
fi
PYTHONPATH=$here/scripts "$here/.venv/bin/python" -m setup.test_tools
[ -n "$wanted" ] || exit 0
echo "test-tools: installing $wanted"
log=$(mktemp)
# shellcheck disable=SC2086
if ! { apt-get -q update && DEBIAN_FRONTEND=noninteractive \
    apt-get -q install -y --no-install-recommends $wanted; } >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    echo "test-tools: could not install $wanted (log: $log)" >&2
    exit 1
fi
rm -f "$log"
