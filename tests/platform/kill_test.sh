#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kill -9 of mount and migrator at random moments under load: the mirror, as it lies then and whenever opened, is one past instant of the
# source, a killed run continues, and in the end both are equal.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/look.sh"
rounds=${SOMFS_ROUNDS:-10} seed=${SOMFS_SEED:-3}
RANDOM=$seed

d=$scratch/vol m=$disk/mirror
mkdir "$d"
check "mounts" somfs "$d"
make_tree "$d/bulk" --seed "$seed" --files 300 --profile mixed
mkdir "$d/o"
kills=0
for i in $(seq "$rounds"); do
    oracle write "$d/o" --seconds 20 --procs 3 --seed $((seed * 1000 + i)) >"$scratch/oracle.log" 2>&1 &
    writer=$!
    started=$writer
    appears "$d/o/oracle"   # its last preparation
    somfs-ctl migrate "$d" "$m" --quiet --confirm-removal >/dev/null 2>"$scratch/err" &
    run=$!
    sleep "0.$((RANDOM % 1000))"
    if [ $((RANDOM % 3)) = 0 ]; then
        pid=$(mount_pid "$d")
        kill -9 "$pid"; wait_gone "$pid"
        kills=$((kills + 1))
        wait "$run"
        look "round $i, after the mount"
        kill "$writer" 2>/dev/null; wait "$writer" 2>/dev/null
        check "mounts again" somfs "$d"
        # Writers died with the mount half-way through a step; what they left is the beginning of the next history.
        rm -rf "$d/o"; mkdir "$d/o"
    else
        kill -9 "$run" 2>/dev/null && kills=$((kills + 1))
        wait "$run" 2>/dev/null
        look "round $i, after the migrator"
        check "round $i: the run goes on" somfs-ctl migrate "$d" "$m" --quiet --confirm-removal
        check "round $i: mirror is one instant" oracle check "$m/tree/o"
        kill "$writer" 2>/dev/null; wait "$writer" 2>/dev/null
        rm -rf "$d/o"; mkdir "$d/o"
    fi
    started=
    touch "$d/bulk/r$i"
done
check "migrates" somfs-ctl migrate "$d" "$m" --quiet --confirm-removal
check "mirror equals" treecmp "$d" "$m/tree" --skip .somfs
check "verify" somfs-ctl verify "$d" "$m"
echo "rounds $rounds, kills $kills, looks $looks, seed $seed"
passed
