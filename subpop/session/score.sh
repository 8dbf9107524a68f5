#!/usr/bin/env bash
# `subpop score DEFENSE --against BASE`: measures a defense as it is here and as it is in the commit BASE, in one store, and fails
# if it is worse here. Called as: score.sh PYTHON DEFENSE BASE FOLDER [pytest options]. Exit status: 0, or 1: the defense is worse,
# or a cell failed; 2: bad input; others are pytest's. The page of the comparison is added to $GITHUB_STEP_SUMMARY, if that is set.
set -euo pipefail
python=$1 defense=$2 base=$3 folder=$4
shift 4

say() { printf 'subpop score: %s\n' "$*" >&2; }

measure() { # REPORT_FOLDER [pytest options]
    "$python" -m subpop run --no-references --only-mine --defense "$defense" --store "$folder/store.sqlite" --report-dir "$@"
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
measure "$folder/here" "$@"

if [ "$commit" = "$(git rev-parse HEAD)" ] && git diff --quiet HEAD --; then
    say "$base is what was measured: nothing to compare"
    exit 0
fi
there=$(mktemp -d)
trap 'git worktree remove --force "$there/tree" >/dev/null 2>&1 || true; rm -rf "$there"' EXIT
git worktree add -q --detach "$there/tree" "$commit"
file=${defense%%:*}
if [[ $file == *.py && ! -f $there/tree/$inside$file ]]; then
    say "$file is not in $base: a new defense has nothing to be compared with"
    exit 0
fi
say "measuring $defense as it is in $base"
if ! (cd "$there/tree/$inside" && unset GITHUB_STEP_SUMMARY && measure "$folder/base" --no-integrity "$@"); then
    say "$defense could not be measured as it is in $base, so that there is nothing to compare"
    exit 0
fi
status=0
page=$("$python" -m subpop compare --paired "$folder/base" "$folder/here") || status=$?
printf '%s\n' "$page"
[ -z "${GITHUB_STEP_SUMMARY:-}" ] || printf '%s\n\n' "$page" >>"$GITHUB_STEP_SUMMARY"
exit "$status"
