#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Unmounting while a migration ends: whenever it comes, the migration is noted or ends with 75, the journal is marked clean, and the
# next migration brings the mirror up to date.
. "$(dirname "$0")/lib.sh"

d=$scratch/vol m=$scratch/mirror
make_tree "$d" --seed 7 --files 50 --profile small
check "mounts" somfs "$d"
check "first" somfs-ctl migrate "$d" "$m" --quiet
noted=0 refused=0
for round in $(seq "${SOMFS_ROUNDS:-12}"); do
    echo "$round" >"$d/round"; echo "$round" >>"$d/grows"
    pid=$(mount_pid "$d")
    somfs-ctl migrate "$d" "$m" --json >"$scratch/migrated" 2>"$scratch/complaint" &
    run=$!
    # From before the snapshot to behind the acknowledgement.
    sleep "0.$(printf '%03d' $((round * round * 5)))"
    check "stops in round $round" somfs-ctl umount "$d"
    wait $run; ended=$?
    case $ended in
    0) noted=$((noted + 1)) ;;
    75) refused=$((refused + 1))
        [ "$(wc -l <"$scratch/complaint")" = 1 ] || same "round $round: one line" "$(cat "$scratch/complaint")" "one line" ;;
    *) same "round $round: exit ($(cat "$scratch/complaint"))" "$ended" "0 or 75" ;;
    esac
    wait_gone "$pid" || same "round $round: the mount process" "still there" "gone"
    check "mounts again" somfs "$d"
    same "round $round: a clean stop" "$(somfs-ctl status "$d" --json | field volumes.0.gap_scan.gap)" unmounted
    [ $ended = 0 ] && same "round $round: noted" "$(somfs-ctl status "$d" --json | field volumes.0.mirrors.0.epoch)" "$(field epoch <"$scratch/migrated")"
    check "migrates" somfs-ctl migrate "$d" "$m" --quiet
    check "equal" treecmp "$d" "$m/tree" --skip .somfs
done
echo "- unmounted while it is verified: no word of what was read"
head -c 300M /dev/urandom >"$d/long"
check "migrates" somfs-ctl migrate "$d" "$m" --quiet
pid=$(mount_pid "$d")
somfs-ctl verify "$d" "$m" --json >"$scratch/verified" 2>"$scratch/complaint" &
run=$!
for i in $(seq 200); do ls "$d/.somfs/store" "$d"/.somfs/snapshots 2>/dev/null | grep -q . && break; sleep 0.01; done
sleep 0.1; kill -STOP $run
check "stops" somfs-ctl umount "$d"
kill -CONT $run; wait $run; code_of_verify=$?
same "verify ends with" "$code_of_verify" 75
same "and does not say" "$(grep -c equal "$scratch/verified")" 0
check "but why" grep -q "the mount ended" "$scratch/complaint" "$scratch/verified"
wait_gone "$pid"
check "mounts again" somfs "$d"
echo "noted $noted, refused $refused"
check "stops" somfs-ctl umount "$d"
passed
