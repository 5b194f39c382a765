#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# run.sh BUILD SECONDS [FUZZER...]: runs each fuzzer of a build directory for so long, from fresh seeds. What it finds is kept in
# BUILD/tests/fuzz/found, and then the exit status is 1.
set -eu
build=$1 seconds=$2
shift 2
[ $# -gt 0 ] || set -- frame bodies receive dirty_set journal store_log delta config
here=$build/tests/fuzz
corpus=$(mktemp -d "${TMPDIR:-/tmp}/somfs-fuzz-XXXXXX")
trap 'rm -rf "$corpus"; rm -rf /dev/shm/somfs-fuzz-*' EXIT
"$here/fuzz_corpus" "$corpus"
mkdir -p "$here/found"
status=0
for name in "$@"; do
  mkdir -p "$corpus/$name"
  if nice -n 19 "$here/fuzz_$name" -max_total_time="$seconds" -max_len=16384 -rss_limit_mb=2048 -timeout=20 -print_final_stats=1 -verbosity=1 \
      -artifact_prefix="$here/found/$name-" "$corpus/$name" >"$here/$name.log" 2>&1; then
    echo "$name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$here/$name.log") executions, nothing found"
  else
    echo "$name: FOUND something:"
    tail -n 30 "$here/$name.log"
    status=1
  fi
done
exit $status
