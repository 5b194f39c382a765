#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# run.sh BUILD SECONDS [FUZZER...]: runs each fuzzer of a build directory for so long, from fresh seeds and the inputs that are kept. With
# SECONDS as "short": a few thousand executions, ten seconds at most; for continuous integration. They are the same each time where neither
# threads, nor random names, nor those ten seconds make a difference.
# One line each; what it finds lies in BUILD/tests/fuzz/found, and then the exit status is 1. With SOMFS_FUZZ_CORPUS=DIR the inputs
# it makes are kept there, and found again by the next run.
set -eu
build=$1 seconds=$2
shift 2
[ $# -gt 0 ] || set -- frame channel bodies session receive answers dirty_set journal journal_open store_log store_open redo spool delta config reception control
how="-max_total_time=$seconds" fixed=
if [ "$seconds" = short ]; then
  how="-runs=2000 -seed=1 -reload=0 -max_total_time=10"
  ! setarch -R true 2>/dev/null || fixed="setarch -R"   # what is covered depends a little on addresses
fi
kept=$(dirname "$0")/corpus
here=$build/tests/fuzz
# In memory: the scratch directories of fuzzers that need files, also of those that died.
memory=/dev/shm
[ -d $memory ] || memory=${TMPDIR:-/tmp}
TMPDIR=$(mktemp -d "$memory/somfs-fuzz-XXXXXX")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
trap 'exit 130' INT TERM
corpus=${SOMFS_FUZZ_CORPUS:-$TMPDIR/corpus}
"$here/fuzz_corpus" "$TMPDIR/seeds"
mkdir -p "$here/found"
status=0
for name in "$@"; do
  mkdir -p "$corpus/$name"
  log=$here/$name.log
  found="nothing found"
  # shellcheck disable=SC2086
  if ! nice -n 19 $fixed "$here/fuzz_$name" $how -max_len=16384 -rss_limit_mb=2048 -timeout=20 -print_final_stats=1 \
      -artifact_prefix="$here/found/$name-" "$corpus/$name" "$TMPDIR/seeds/$name" "$kept/$name" >"$log" 2>&1; then
    found="FOUND $(sed -n 's/^.*Test unit written to //p' "$log" | head -n 1), see $log"
    status=1
  fi
  executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  edges=$(sed -n 's/^.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
  echo "$name: ${executions:-0} executions, ${edges:-0} edges covered, $found"
done
exit $status
