#!/usr/bin/env bash
# `subpop score DEFENSE --against BASE`: measures a defense as it is here and as it is in the commit BASE, in one store, and fails
# if it is worse here. Called as: score.sh PYTHON DEFENSE BASE FOLDER [pytest options]. Exit status: 0, or 1: the defense is worse,
# or a cell failed; 2: bad input; 130: interrupted; others are pytest's. The page of the comparison is added to $GITHUB_STEP_SUMMARY,
# if that is set.
set -euo pipefail
python=$1 defense=$2 base=$3 folder=$4
shift 4

say() { printf 'subpop score: %s\n' "$*" >&2; }

# Measurements run in the background, where Ctrl-C is ignored: it is passed on as SIGTERM, which may also be sent to this script alone.
running='' stopped=''
trap '[ -n "$running" ] || exit 130; stopped=1; kill -TERM "$running" 2>/dev/null || true' INT TERM

measure() { # FOLDER REPORT_FOLDER [pytest options]
    local where=$1 status=0
    shift
    (cd "$where" && exec "$python" -m subpop run --no-references --only-mine --defense "$defense" --store "$folder/store.sqlite" \
        --report-dir "$@") <&0 &
    running=$!
    while status=0; wait "$running" || status=$?; kill -0 "$running" 2>/dev/null; do :; done # a signal ends `wait` early
    running=''
    if [ -n "$stopped" ]; then
        say "interrupted; the finished trials are stored, and the same command continues from there"
        exit 130
    fi
    return "$status"
}

found=$(git rev-parse --show-toplevel 2>&1) || { say "git finds no repository in this folder (${found#fatal: }); run it in a clone"; exit 2; }
inside=$(git rev-parse --show-prefix)
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
[ -e "$folder/.gitignore" ] || echo '*' >"$folder/.gitignore" # results are not committed by accident

# The commit: a local name, a branch of origin, or fetched where the clone is shallow.
commit=$(git rev-parse -q --verify "$base^{commit}" || git rev-parse -q --verify "origin/$base^{commit}" || true)
if [ -z "$commit" ] && git fetch -q --depth 1 origin "$base" 2>/dev/null; then
    commit=$(git rev-parse -q --verify FETCH_HEAD)
fi
[ -n "$commit" ] || { say "there is no commit $base here or at origin; name a branch with --against, or fetch it"; exit 2; }

say "measuring $defense as it is here"
measure . "$folder/here" "$@"

if [ "$commit" = "$(git rev-parse HEAD)" ] && git diff --quiet HEAD --; then
    say "$base is what was measured: nothing to compare"
    exit 0
fi
tree=$folder/.base/tree # always here: trials of another file are not reused, even if it is the same
trap 'git worktree remove --force "$tree" >/dev/null 2>&1 || true; rmdir "${tree%/*}" 2>/dev/null || true' EXIT
git worktree remove --force "$tree" >/dev/null 2>&1 || true # of a run that was killed
git worktree add -q -f --detach "$tree" "$commit"
file=${defense%%:*}
if [[ $file == *.py && ! -f $tree/$inside$file ]]; then
    say "$file is not in $base: a new defense has nothing to be compared with"
    exit 0
fi
say "measuring $defense as it is in $base"
status=0
GITHUB_STEP_SUMMARY='' measure "$tree/$inside" "$folder/base" --no-integrity "$@" || status=$?
if [ "$status" -gt 128 ]; then
    say "a signal ended the measurement of $defense as it is in $base (status $status); run the same command again"
    exit "$status"
elif [ "$status" -ne 0 ]; then
    say "$defense could not be measured as it is in $base, so that there is nothing to compare"
    exit 0
fi
page=$("$python" -m subpop compare --paired "$folder/base" "$folder/here") || status=$?
printf '%s\n' "$page"
[ -z "${GITHUB_STEP_SUMMARY:-}" ] || printf '%s\n\n' "$page" >>"$GITHUB_STEP_SUMMARY"
exit "$status"
