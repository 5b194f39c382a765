#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Power cuts of the backup site. A mirror on a recorded disk takes several epochs; the disk is cut at many points. The mirror, opened
# again, is exactly one of the epochs, none older than the last one acknowledged before the cut; and it takes the next migration.
#
# With `replicate` it follows writers whose causal chain one can check: groups are on their way, acknowledged and not yet in the tree, one
# after another. What is left is one instant, none before the last sync that had returned, and the relation makes it equal by itself.
#
#   mirror_power_test.sh FS [replicate]      ext4, xfs or btrfs; SOMFS_CUTS random cuts besides one at each acknowledgement, SOMFS_SEED
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/power.sh"
fs=${1:-ext4} how=${2:-migrate} cuts=${SOMFS_CUTS:-16} seed=${SOMFS_SEED:-1} epochs=${SOMFS_EPOCHS:-7}
RANDOM=$seed

d=$scratch/vol m=$disk/mirror
# Odd epochs change a few objects, which are synced one by one; even ones many, which are synced together.
mutate() {
    local e=$1 n=3 f i
    [ $((e % 2)) = 0 ] && n=40
    mapfile -t files < <(find "$d" -type f | sort)
    for i in $(seq $n); do
        f=${files[$((RANDOM % ${#files[@]}))]}
        [ -f "$f" ] || continue
        case $(((i + RANDOM % 2) % 7)) in
        0) head -c $((RANDOM * 2)) /dev/urandom >"$d/new-$e-$i" ;;
        1) head -c $((1 + RANDOM % 9000)) /dev/urandom | dd of="$f" bs=4k seek=$((RANDOM % 3)) conv=notrunc status=none ;;
        2) mv "$f" "$d/moved-$e-$i" ;;
        3) ln "$f" "$d/link-$e-$i" ;;
        4) rm "$f" ;;
        5) { cat "$f"; echo more; } >"$f.new" && mv "$f.new" "$f" ;;
        6) mkdir "$d/dir-$e-$i" && mv "$f" "$d/dir-$e-$i/in" && chmod 700 "$d/dir-$e-$i" ;;
        esac
    done
    truncate -s $((RANDOM % 5000)) "$d/sized"
    setfattr -n user.epoch -v "$e" "$d/sized" 2>/dev/null
    [ -d "$d/tree-$((e - 1))" ] && mv "$d/tree-$((e - 1))" "$d/tree-$e"
    [ "$e" = 2 ] && { mkdir -p "$d/tree-$e/a/b"; echo deep >"$d/tree-$e/a/b/c"; }
    return 0
}

began=(0) durable=(0)
record_migrations() {
    local e
    for e in $(seq "$epochs"); do
        [ "$e" = 1 ] || mutate "$e"
        began[e]=$(recorded)
        check "epoch $e" somfs-ctl migrate "$d" "$m" --quiet --confirm-removal
        durable[e]=$(recorded)
        mkdir -p "$scratch/epochs"
        cp -a "$d" "$scratch/epochs/$e"
    done
    mutate $((epochs + 1))
}

# How far the writers had come when a sync began that the mirror had answered at durable[e].
held=(0)
progress() { local p; p=$(head -c 64 "$scratch/progress" | grep -oE '[0-9]+' | head -1); echo "$((10#${p:-0}))"; }
record_replication() {
    local e
    check "replicates" somfs-ctl replicate "$d" "$m" --quiet
    mkdir "$d/o"
    setsid oracle write "$d/o" --seconds 36000 --procs 3 --seed "$seed" --progress "$scratch/progress" >"$scratch/oracle.log" 2>&1 &
    writer=$!
    started="$started $writer"
    for _ in $(seq 400); do [ -s "$scratch/progress" ] && break; sleep 0.02; done
    for e in $(seq "$epochs"); do
        sleep 0.3
        began[e]=$(recorded)
        held[e]=$(progress)
        check "sync $e" somfs-ctl sync "$d" --quiet
        durable[e]=$(recorded)
    done
    kill -9 -- "-$writer"
    wait "$writer" 2>/dev/null
    check "pauses" somfs-ctl pause "$d" --quiet
}

make_tree "$d" --seed "$seed" --files 60 --profile small
if [ "$how" = replicate ]; then
    # The oracle's writers make and remove files as fast as they can: that is no reason to hold anything.
    conf=${d#/}
    printf '[migrate]\nbrake = 1\n' >"$SOMFS_CONFIG_DIR/${conf//\//-}.conf"
fi
check "mounts" somfs "$d"
record_start "$fs"
if [ "$how" = replicate ]; then record_replication; else record_migrations; fi
record_stop

# one_of LOW HIGH: which epoch the mirror is
one_of() {
    local e
    for e in $(seq "$1" "$2"); do
        treecmp "$scratch/epochs/$e" "$m/tree" --skip .somfs >"$scratch/differs" 2>&1 && { echo "$e"; return 0; }
    done
    return 1
}
# left WHERE LOW HIGH: what the mirror, opened alone, shows
left_by_migrations() {
    if [ -z "$(ls -A "$m/tree")" ]; then
        [ "$2" = 0 ] || same "$1: the mirror" empty "epoch $2 or $3"
    elif ! one_of "$(($2 == 0 ? 1 : $2))" "$(($3 == 0 ? 1 : $3))" >"$scratch/which"; then
        same "$1: the mirror" "none of them" "epoch $2 or $3"
        head -5 "$scratch/differs"
    fi
}
left_by_replication() {
    local n
    if [ ! -e "$m/tree/o/oracle" ]; then
        [ "$2" = 0 ] || same "$1: the mirror" "without the writers' files" "at or after ${held[$2]}"
    elif check "$1: the mirror is one instant" oracle check "$m/tree/o"; then
        n=$(grep -oE '[0-9]+' "$scratch/out" | head -1)
        [ "$n" -ge "${held[$2]}" ] || same "$1: the mirror's instant" "$n" "at or after ${held[$2]}, which sync $2 had confirmed"
        [ "$n" -le "$((last + 1))" ] || same "$1: the mirror's instant" "$n" "in the past, $last"
    fi
}
# judge K SEED
judge() {
    local at=$1 low=0 high=0 e where="cut at $1 seed $2"
    for e in $(seq "$epochs"); do
        [ "${durable[e]}" -le "$at" ] && low=$e
        [ "${began[e]}" -le "$at" ] && high=$e
    done
    cut "$at" "$2" || { same "$where: mounts" no yes; return 0; }
    if somfs-ctl held list "$m" >"$scratch/out" 2>"$scratch/err"; then
        if [ "$how" = replicate ]; then left_by_replication "$where" "$low"; else left_by_migrations "$where" "$low" "$high"; fi
    elif [ "$low" != 0 ]; then
        same "$where: the mirror opens" "$(cat "$scratch/err")" "epoch $low or $high"
    fi
    if [ "$how" = replicate ]; then
        check "$where: resumes" somfs-ctl resume "$d" --quiet
        check "$where: syncs" somfs-ctl sync "$d" --quiet
    else
        check "$where: migrates" somfs-ctl migrate "$d" "$m" --quiet --confirm-removal
    fi
    check "$where: equal" treecmp "$d" "$m/tree" --skip .somfs
    [ "$how" = migrate ] || check "$where: pauses" somfs-ctl pause "$d" --quiet
    uncut
}
[ "$how" = migrate ] || last=$(progress)
done_cuts=0
for e in $(seq "$epochs"); do judge "${durable[e]}" 0; done_cuts=$((done_cuts + 1)); done
for i in $(seq "$cuts"); do
    at=$(((RANDOM * 32768 + RANDOM) % (entries + 1)))
    case $((i % 4)) in
    0) s=1 ;;
    1) s=$((RANDOM + 2)) ;;
    *) s=0; any_flush "${began[1]}" ;;
    esac
    judge "$at" "$s"
    done_cuts=$((done_cuts + 1))
done
echo "mirror on $fs, $how: $done_cuts cuts of $entries entries, seed $seed, $failures failures"
passed
