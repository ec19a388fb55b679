#!/bin/sh
# Makes sure that a container engine answers. If none does, starts the one that is installed, Docker
# or Podman; if none is, installs docker.io as root on Debian or Ubuntu, and starts it (with or
# without systemd). Exits 20, like the driver, if that is impossible.
set -eu
python=$(dirname "$0")/../../.venv/bin/python

answers() {
    "$python" -c 'from kiln.running.engine import Engine; Engine.find()' 2>/dev/null
}
give_up() {
    echo "engine: $1" >&2
    echo "        $2" >&2
    exit 20
}
wait_for() { # PID: until the engine answers, or the process is gone, or 40 s have passed
    n=0
    while [ $n -lt 80 ]; do
        answers && return 0
        kill -0 "$1" 2>/dev/null || return 1
        n=$((n + 1))
        sleep 0.5
    done
    return 1
}

start_podman() { # its socket that speaks Docker's protocol; Docker is not installed beside it
    if [ "$(id -u)" -eq 0 ]; then
        user="" socket=/run/podman/podman.sock
    else
        user=--user socket=${XDG_RUNTIME_DIR:-/run/user/$(id -u)}/podman/podman.sock
    fi
    echo "engine: Podman is installed, so Docker is not; starting $socket"
    # shellcheck disable=SC2086
    if [ -d /run/systemd/system ] && systemctl $user start podman.socket; then
        wait_for $$ && exit 0
    fi
    mkdir -p "$(dirname "$socket")" || give_up "no place for $socket." "Set XDG_RUNTIME_DIR."
    log=$(mktemp)
    setsid podman system service --time=0 "unix://$socket" >"$log" 2>&1 </dev/null &
    wait_for $! && exit 0
    give_up "Podman's socket does not start." "Its log is $log."
}

answers && exit 0
if [ -n "${DOCKER_HOST:-}" ]; then
    give_up "nothing answers at DOCKER_HOST=$DOCKER_HOST." "Start that engine, or unset DOCKER_HOST."
fi
context=$("$python" -c 'from kiln.running.addresses import candidates
print(candidates()[0].context)' 2>/dev/null) || context="that is chosen"
if [ -n "$context" ]; then
    give_up "nothing answers at the address of Docker's context $context." \
        "Start that engine, or run 'docker context use default'."
fi
if ! command -v dockerd >/dev/null 2>&1 && command -v podman >/dev/null 2>&1; then
    start_podman
fi
if [ "$(id -u)" -ne 0 ]; then
    give_up "no container engine answers, and only root can install one." \
        "Start Docker or Podman, or run 'sudo make engine' on Debian or Ubuntu."
fi
if ! command -v dockerd >/dev/null 2>&1; then
    # shellcheck disable=SC1091
    ids=$(. /etc/os-release 2>/dev/null && echo "${ID:-} ${ID_LIKE:-}") || ids=
    case " $ids " in
        *" debian "* | *" ubuntu "*) ;;
        *) give_up "no container engine here, and this is neither Debian nor Ubuntu." \
            "Install Docker or Podman as your system's handbook says." ;;
    esac
    echo "engine: installing docker.io"
    log=$(mktemp)
    if ! { apt-get -q update && DEBIAN_FRONTEND=noninteractive \
        apt-get -q install -y --no-install-recommends docker.io; } >"$log" 2>&1; then
        tail -n 5 "$log" >&2
        give_up "docker.io could not be installed (log: $log)." "Check the network and apt's sources."
    fi
    rm -f "$log"
    answers && exit 0
fi
if [ -d /run/systemd/system ]; then
    echo "engine: starting docker with systemd"
    systemctl start docker || true
    wait_for $$ && exit 0
    give_up "systemd could not start docker." "Look at 'journalctl -u docker'."
fi
log=/var/log/dockerd.log
# Stages and builds run without any network, so an engine that may not touch the firewall will do.
for options in "" "--bridge=none --iptables=false --ip6tables=false"; do
    echo "engine: starting dockerd $options"
    # shellcheck disable=SC2086
    setsid dockerd $options >>"$log" 2>&1 </dev/null &
    wait_for $! && exit 0
    kill $! 2>/dev/null || true
    sleep 2
done
give_up "dockerd does not start." "Its log is $log."
