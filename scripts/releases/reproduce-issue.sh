#!/bin/sh
# Keeps at most one issue open about releases that are not reproduced: opens it or adds to it when
# RESULT is not "success", closes it when it is.
#   usage: scripts/releases/reproduce-issue.sh RESULT REPORT
# Needs gh with a token that may write issues (GH_TOKEN). RUN_URL is linked where it is set.
set -eu
result=$1 report=$2
title="A release is not reproduced"
label=reproducibility
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM

if [ -s "$report" ]; then
    cp "$report" "$work/text"
else
    echo "There is no report: the run ended before anything was compared ($result)." >"$work/text"
fi
[ -z "${RUN_URL:-}" ] || printf '\nRun: %s\n' "$RUN_URL" >>"$work/text"

open=$(gh issue list --state open --label "$label" --limit 1 --json number --jq '.[].number')
case $result in
    success)
        [ -z "$open" ] || gh issue close "$open" --comment "$(cat "$work/text")"
        ;;
    *)
        if [ -n "$open" ]; then
            gh issue comment "$open" --body-file "$work/text"
        else
            gh label create "$label" --force --description "What was released cannot be made again"
            gh issue create --title "$title" --label "$label" --body-file "$work/text"
        fi
        ;;
esac
