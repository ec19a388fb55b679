#!/bin/sh
# Resolves every docker/*/packages.in with a private apt state, and writes the debian.lock beside it.
# Needs apt (Debian or Ubuntu); changes nothing on the host.
#   usage: scripts/locks/debian.sh [--exclude-newer DATE] [IMAGE]
# A mirror has only today's state. With a date, a mirror that changed after that day is refused: set
# KILN_DEBIAN_MIRROR to a snapshot archive of that day.
# The mirror is the host's own (apt configuration) or KILN_DEBIAN_MIRROR.
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
newest=
[ "${1:-}" = --exclude-newer ] && newest=$2 && shift 2
only=${1:-}

# shellcheck disable=SC2016  # $(SITE) is apt's
mirror=${KILN_DEBIAN_MIRROR:-$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' |
    sort -u | grep -E '/debian/?$' | head -n 1 || true)}
if [ -z "$mirror" ]; then
    echo "locks/debian.sh: the host's apt configuration names no Debian mirror; set KILN_DEBIAN_MIRROR to the base URL of one" >&2
    exit 11
fi
mirror=${mirror%/}
security=${KILN_DEBIAN_SECURITY_MIRROR:-$mirror-security}

all=$(mktemp -d)
trap 'rm -rf "$all"' EXIT INT TERM

apt_() {
    "$@" -o Dir::State="$work" -o Dir::State::Lists="$work/lists" \
        -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache" \
        -o Dir::Etc::SourceList="$work/etc/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::Etc::TrustedParts="$work/trusted" -o Dir::Etc::Parts=/dev/null \
        -o APT::Architecture=amd64 -o APT::Architectures=amd64 \
        -o APT::Install-Recommends=false -o APT::Sandbox::User=root \
        -o Acquire::Check-Valid-Until=false
}

refuse_newer() {
    limit=$(date -u -d "$newest 23:59:59" +%s)
    for release in "$work"/lists/*Release; do
        changed=$(sed -n 's/^Date: //p' "$release" | head -n 1)
        if [ "$(date -u -d "$changed" +%s)" -gt "$limit" ]; then
            echo "locks/debian.sh: the mirror was changed on $changed, after $newest" >&2
            echo "    Set KILN_DEBIAN_MIRROR to a snapshot archive of that day, or take a later date." >&2
            exit 11
        fi
    done
}

lock() { # IMAGE SUITE RELEASE
    image=$1 suite=$2 release=$3
    [ -z "$only" ] || [ "$only" = "$image" ] || return 0
    out=$here/docker/$image/debian.lock
    work=$all/$image
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/etc" "$work/trusted"
    cp /usr/share/keyrings/debian-archive-*.gpg "$work/trusted/" 2>/dev/null || true
    cat >"$work/etc/sources.list" <<END
deb $mirror $suite main
deb $security $suite-security main
END
    grep -vE '^[[:space:]]*(#|$)' "$here/docker/$image/packages.in" >"$work/named"
    grep -v -e '-$' "$work/named" >"$work/wanted"
    # What is to be left out is there already, as far as apt knows.
    sed -n 's/-$//p' "$work/named" | while read -r name; do
        printf 'Package: %s\nStatus: install ok installed\nVersion: 999\nArchitecture: amd64\nMaintainer: none\nDescription: left out\n\n' "$name"
    done >"$work/status"
    apt_ apt-get -qq update
    [ -z "$newest" ] || refuse_newer
    # shellcheck disable=SC2046
    apt_ apt-get -qq install --print-uris $(cat "$work/wanted") >"$work/uris"
    {
        echo "# Debian $release ($suite) packages of the image $image: name version arch sha256 size archive path"
        echo '# Made from packages.in by scripts/locks/debian.sh.'
        sed -E "s/^'([^']*)' ([^ ]+) ([0-9]+) .*/\1 \3/" "$work/uris" | while read -r url size; do
            case $url in
                "$security"/*) archive=debian-security path=${url#"$security"/} ;;
                *) archive=debian path=${url#"$mirror"/} ;;
            esac
            path=$(printf '%s' "$path" | sed 's/%2b/+/g; s/%7e/~/g; s/%3a/:/g')
            base=$(basename "$path" .deb)
            name=${base%%_*}
            # Several versions may be known: the stanza whose Filename is the one apt chose.
            apt_ apt-cache show "$name" | awk -v want="$path" -v a="$archive" -v size="$size" '
                /^Package:/ {n=$2} /^Version:/ {v=$2} /^Architecture:/ {r=$2}
                /^Filename:/ {f=$2; sub("^\\./","",f)} /^SHA256:/ {h=$2}
                /^$/ { if (f==want) {print n, v, r, h, size, a, f; exit} f="" }
                END { if (f==want) print n, v, r, h, size, a, f }' | head -n 1
        done | LC_ALL=C sort
    } >"$work/lock"
    n=$(grep -vc '^#' "$work/lock")
    if [ "$n" -ne "$(wc -l <"$work/uris")" ]; then
        echo "locks/debian.sh: apt chose $(wc -l <"$work/uris") packages but $n could be described; nothing written" >&2
        exit 1
    fi
    mv "$work/lock" "$out"
    chmod 644 "$out"
    echo "$out: $n packages"
}

lock base bullseye 11
lock device trixie 13
