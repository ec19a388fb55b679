#!/bin/sh
# Makes a release on GitHub of flat files: a draft first, public only once it holds all of them.
#   usage: scripts/releases/publish-release.sh TAG ASSETS NOTES
# Needs gh with a token that may write (GH_TOKEN), and the tag. A draft that an earlier try left is
# filled up; what is public is never touched.
set -eu
tag=$1 assets=$2 notes=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM

(cd "$assets" && sha256sum --check --strict --quiet SHA256SUMS)
if state=$(gh release view "$tag" --json isDraft --jq .isDraft 2>/dev/null); then
    if [ "$state" != true ]; then
        echo "publish-release: release $tag is public already; a changed one needs another tag" >&2
        exit 1
    fi
else
    gh release create "$tag" --draft --verify-tag --title "tflite-kiln $tag" --notes-file "$notes"
fi
gh release upload "$tag" "$assets"/* --clobber

(cd "$assets" && for file in *; do echo "$file $(wc -c <"$file")"; done) | LC_ALL=C sort >"$work/here"
gh release view "$tag" --json assets --jq '.assets[] | "\(.name) \(.size)"' |
    LC_ALL=C sort >"$work/there"
if ! diff "$work/here" "$work/there" >&2; then
    echo "publish-release: the draft of $tag is not complete (< here, > there); it stays a draft" >&2
    exit 1
fi
gh release edit "$tag" --draft=false
