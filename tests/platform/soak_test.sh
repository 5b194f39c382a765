#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The reliability campaign: power cuts of either side on three file systems, kills of every part, each run with another seed, until
# SOMFS_SOAK_POINTS cuts and kills were made or SOMFS_SOAK_SECONDS have passed. One line per run; a failed one prints all it said and
# its seed, with which it can be run again. SOMFS_SOAK_ONLY='*replicat*' leaves out the runs whose names do not match.
here=$(dirname "$0")
: "${SOMFS_BIN:?the directory of the programs}" "${SOMFS_TOOLS:?the directory of the instruments}"
points=${SOMFS_SOAK_POINTS:-1000} seconds=${SOMFS_SOAK_SECONDS:-14400} seed=${SOMFS_SEED:-$(date +%s)}
[ "$(id -u)" = 0 ] || { echo "skipped: needs root"; exit 77; }
out=$(mktemp) || exit 1
trap 'rm -f "$out"' EXIT
trap 'exit 130' INT TERM

made=0 failed=0 runs=0
declare -A of
run() { # run NAME COMMAND...: its last line but one says how many points it made
    local name=$1 n code
    shift
    # shellcheck disable=SC2053
    [[ $name == ${SOMFS_SOAK_ONLY:-*} ]] || return
    SOMFS_SEED=$seed "$@" >"$out" 2>&1
    code=$?
    if [ $code = 77 ]; then
        echo "$(tail -n 1 "$out") ($name)"
        return
    fi
    n=$(sed -n -e 's/^.*: \([0-9]*\) cuts of .*/\1/p' -e 's/^rounds .*\(kills\|faults\) \([0-9]*\),.*/\2/p' "$out" | tail -n 1)
    made=$((made + ${n:-0})) runs=$((runs + 1))
    of[$name]=$((${of[$name]:-0} + ${n:-0}))
    if [ $code = 0 ]; then
        echo "$name seed $seed: ${n:-0} points, passed"
    else
        failed=$((failed + 1))
        echo "$name seed $seed: FAILED (exit $code)"
        sed 's/^/    /' "$out"
    fi
}
while [ $made -lt "$points" ] && [ $SECONDS -lt "$seconds" ]; do
    before=$runs
    for fs in ext4 xfs btrfs; do
        SOMFS_CUTS=${SOMFS_CUTS:-40} run "mirror-$fs" "$here/mirror_power_test.sh" $fs
        SOMFS_CUTS=${SOMFS_CUTS:-40} run "mirror-replicating-$fs" "$here/mirror_power_test.sh" $fs replicate
        SOMFS_CUTS=${SOMFS_CUTS:-40} run "source-$fs" "$here/source_power_test.sh" $fs
        SOMFS_CUTS=${SOMFS_CUTS:-40} run "source-replicating-$fs" "$here/source_power_test.sh" $fs replicate
        seed=$((seed + 1))
    done
    SOMFS_ROUNDS=${SOMFS_ROUNDS:-20} run kill "$here/kill_test.sh"
    SOMFS_ROUNDS=${SOMFS_ROUNDS:-20} run kill-parts "$here/kill_parts_test.sh"
    SOMFS_ROUNDS=${SOMFS_ROUNDS:-20} run replicate "$here/replicate_test.sh"
    SOMFS_ROUNDS=${SOMFS_ROUNDS:-60} run replicate-chaos "$here/replicate_chaos_test.sh"
    SOMFS_ROUNDS=${SOMFS_ROUNDS:-20} run replicate-chain "$here/chain_test.sh"
    [ $runs -gt $before ] || { echo "skipped: nothing of it can run here"; exit 77; }
    seed=$((seed + 1))
done
for name in "${!of[@]}"; do echo "$name: ${of[$name]}"; done | sort
echo "$made cuts and kills in $runs runs, $failed runs failed, $SECONDS s"
[ $failed = 0 ]
