#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Power cuts of the backup site. A mirror on a recorded disk takes several epochs; the disk is cut at many points. The mirror, opened
# again, is exactly one of the epochs, none older than the last one acknowledged before the cut; and it takes the next migration.
#
#   mirror_power_test.sh FS      ext4, xfs or btrfs; SOMFS_CUTS random cuts besides one at each acknowledgement, SOMFS_SEED
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/power.sh"
fs=${1:-ext4} cuts=${SOMFS_CUTS:-16} seed=${SOMFS_SEED:-1} epochs=${SOMFS_EPOCHS:-7}
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

make_tree "$d" --seed "$seed" --files 60 --profile small
check "mounts" somfs "$d"
record_start "$fs"
began=(0) durable=(0)
for e in $(seq "$epochs"); do
    [ "$e" = 1 ] || mutate "$e"
    began[e]=$(recorded)
    check "epoch $e" somfs-ctl migrate "$d" "$m" --quiet --confirm-removal
    durable[e]=$(recorded)
    mkdir -p "$scratch/epochs"
    cp -a "$d" "$scratch/epochs/$e"
done
mutate $((epochs + 1))
record_stop

# one_of LOW HIGH: which epoch the mirror is
one_of() {
    local e
    for e in $(seq "$1" "$2"); do
        treecmp "$scratch/epochs/$e" "$m/tree" --skip .somfs >"$scratch/differs" 2>&1 && { echo "$e"; return 0; }
    done
    return 1
}
# judge K SEED
judge() {
    local at=$1 low=0 high=0 e
    for e in $(seq "$epochs"); do
        [ "${durable[e]}" -le "$at" ] && low=$e
        [ "${began[e]}" -le "$at" ] && high=$e
    done
    cut "$at" "$2" || { same "cut at $at seed $2: mounts" no yes; return 0; }
    if somfs-ctl held list "$m" >"$scratch/out" 2>"$scratch/err"; then
        if [ -z "$(ls -A "$m/tree")" ]; then
            [ "$low" = 0 ] || same "cut at $at seed $2: the mirror" empty "epoch $low or $high"
        elif ! one_of "$((low == 0 ? 1 : low))" "$((high == 0 ? 1 : high))" >"$scratch/which"; then
            same "cut at $at seed $2: the mirror" "none of them" "epoch $low or $high"
            head -5 "$scratch/differs"
        fi
    elif [ "$low" != 0 ]; then
        same "cut at $at seed $2: the mirror opens" "$(cat "$scratch/err")" "epoch $low or $high"
    fi
    check "cut at $at seed $2: migrates" somfs-ctl migrate "$d" "$m" --quiet --confirm-removal
    check "cut at $at seed $2: equal" treecmp "$d" "$m/tree" --skip .somfs
    uncut
}
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
echo "mirror on $fs: $done_cuts cuts of $entries entries, seed $seed, $failures failures"
passed
