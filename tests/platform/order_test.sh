#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# One instant: writers with causal chains across files run at full speed while snapshots are taken and migrated. Each snapshot and
# each mirror must exist at one instant. The oracle is first shown to catch a tree that does not.
. "$(dirname "$0")/lib.sh"
rounds=${SOMFS_ROUNDS:-8}

d=$scratch/vol m=$scratch/mirror
mkdir "$d"
check "mounts" somfs "$d"
oracle write "$d" --seconds $((rounds * 3 + 30)) --procs 4 --seed "${SOMFS_SEED:-11}" >"$scratch/oracle.log" 2>&1 &
writer=$!
started="$started $writer"
appears "$d/oracle"
sleep 1

# The oracle can see: copies of the live tree, made file by file, exist at no instant (one lucky copy may).
caught=0
for i in 1 2 3; do
    mkdir "$scratch/live"; (cd "$d" && tar cf - --exclude=.somfs . 2>/dev/null) | tar xf - -C "$scratch/live" 2>/dev/null
    oracle check "$scratch/live" >/dev/null 2>&1 || caught=$((caught + 1))
    rm -rf "$scratch/live"
done
[ "$caught" -ge 1 ] || { echo "FAILED: the oracle did not catch a copy of a live tree"; failures=1; }

last=0
for i in $(seq "$rounds"); do
    check "snapshot $i" somfs-ctl snapshot create "$d" --name "s$i" --json || continue
    check "snapshot $i is one instant" oracle check "$d/.somfs/snapshots/s$i" || continue
    check "migrates $i" somfs-ctl migrate "$d" "$m" --json --confirm-removal || continue
    cp "$scratch/out" "$scratch/migrate.json"
    check "mirror $i is one instant" oracle check "$m/tree" || continue
    n=$(grep -oE '[0-9]+' "$scratch/out" | head -1)
    [ "$n" -ge "$last" ] || { echo "FAILED: the mirror went back from $last to $n"; failures=$((failures + 1)); }
    last=$n
done
check "s1 still is the same instant" oracle check "$d/.somfs/snapshots/s1"
kill "$writer" 2>/dev/null; wait "$writer" 2>/dev/null
started=
check "migrates at rest" somfs-ctl migrate "$d" "$m" --quiet --confirm-removal
check "mirror equals" treecmp "$d" "$m/tree" --skip .somfs
check "verify" somfs-ctl verify "$d" "$m"
echo "rounds $rounds, last number $last"
passed
