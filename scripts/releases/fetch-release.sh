#!/bin/sh
# Downloads the archive of a release on GitHub (the latest, unless TAG names one), unpacks it into a
# folder that must be new, and prints tag=TAG; prints tag= where there is no release.
#   usage: scripts/releases/fetch-release.sh FOLDER [TAG]
# Needs gh with a token that may read (GH_TOKEN). Nothing is verified here: kiln does that.
set -eu
folder=$1 tag=${2:-}
if [ -z "$tag" ]; then
    tag=$(gh release list --exclude-drafts --exclude-pre-releases --limit 1 \
        --json tagName --jq '.[].tagName')
fi
if [ -n "$tag" ]; then
    mkdir "$folder"
    gh release download "$tag" --pattern "tflite-kiln-$tag.tar" --dir "$folder" >&2
    tar -xf "$folder/tflite-kiln-$tag.tar" -C "$folder"
    rm "$folder/tflite-kiln-$tag.tar"
fi
echo "tag=$tag"
