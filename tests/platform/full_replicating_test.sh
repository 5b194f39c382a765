#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Disks that fill up while a volume is replicated: the mirror's, to the last block, and the source's, on which its pre-images lie. The application
# writes on while there is room; the relation says what is wrong and goes on by itself; the other mirror is not disturbed; nothing is lost.
. "$(dirname "$0")/lib.sh"
shopt -s extglob
[ -e /dev/loop-control ] || skip "needs loop devices"

small() { # small NAME SIZE: a file system of its own at $scratch/NAME
    truncate -s "$2" "$scratch/$1.img"
    mkfs.ext4 -q -m 0 "$scratch/$1.img" && mkdir "$scratch/$1" && mount -o loop "$scratch/$1.img" "$scratch/$1" || skip "cannot mount a loop device"
}
free_of() { stat -f -c '%a * %S' "$1" | { read -r sum; echo $((sum)); }; }
state_of() { somfs-ctl status "$d" --json | python3 -c 'import json,sys
for m in json.loads(sys.stdin.readline())["volumes"][0]["mirrors"]:
    if m["target"] == sys.argv[1]: print(m[sys.argv[2]])' "$1" "${2:-state}"; }
becomes() { # becomes STATE TARGET [PATTERN OF THE REASON]: within a minute
    local until=$((SECONDS + 60)) now=
    while [ $SECONDS -lt $until ]; do
        now="$(state_of "$2"): $(state_of "$2" reason)"
        # shellcheck disable=SC2053
        [[ $now == $1:*${3:-}* ]] && return 0
        sleep 0.2
    done
    same "$2" "$now" "$1: ${3:-}"
}
small src 96M
# Room for a tree as large as the source's and for all that an epoch changes in it, which is staged before anything is removed.
small far 192M
d=$scratch/src/vol near=$scratch/near store=$scratch/far/store
mkdir "$d"
for i in $(seq 20); do head -c 1000000 /dev/urandom >"$d/f$i"; done
sync -f "$d"
somfs-mirrord --listen 127.0.0.1:0 --store "$store" >"$scratch/daemon.out" 2>"$scratch/daemon.log" &
started="$started $!"
for _ in $(seq 100); do port=$(sed -n 's/^listening on port //p' "$scratch/daemon.out"); [ -n "$port" ] && break; sleep 0.1; done
target=somfs://127.0.0.1:$port/data
check "mounts" somfs "$d"
code_is 10 somfs-ctl replicate "$d" "$target"
check "pairs" somfs-ctl pair "$target" "$(somfs-mirrord --store "$store" --invite data)"
check "replicates over the network" somfs-ctl replicate "$d" "$target"
check "replicates nearby" somfs-ctl replicate "$d" "$near"
check "syncs both" somfs-ctl sync "$d"

echo "- a mirror without room: it says so, keeps an instant, and goes on by itself; the other one has all"
head -c $(($(free_of "$scratch/far") - 6000000)) /dev/zero >"$scratch/far/other"
head -c 15000000 /dev/urandom >"$d/new"; echo changed >>"$d/f5"
becomes DEGRADED "$target" "@(space|room)"
check "the other one has all" somfs-ctl sync "$d" "$near"
check "equal" treecmp "$d" "$near/tree" --skip .somfs
code_is 4 somfs-ctl sync "$d" "$target" --timeout 1
# What it shows is an instant before: perhaps one in the middle of that write.
there=$(stat -c %s "$store/data/tree/new" 2>/dev/null || echo 0)
[ "$there" -lt 15000000 ] || same "the mirror without room" "has all" "an instant before"
[ "$there" = 0 ] || check "the beginning of the new file" cmp -n "$there" "$d/new" "$store/data/tree/new"
for i in 1 2 3 4; do cmp -s "$d/f$i" "$store/data/tree/f$i" || same "f$i at the mirror" changed untouched; done
rm "$scratch/far/other"
becomes SYNCED "$target"
check "equal" treecmp "$d" "$store/data/tree" --skip .somfs

echo "- to the last block: not even a list can be written"
head -c 250000000 /dev/zero >"$scratch/far/other" 2>/dev/null
for i in 6 7 8; do echo more >>"$d/f$i"; done; mkdir "$d/dir"
becomes DEGRADED "$target" "@(space|room)"
check "the application goes on" cp "$d/f1" "$d/dir/copy"
rm "$scratch/far/other"
becomes SYNCED "$target"
check "syncs" somfs-ctl sync "$d"
check "equal" treecmp "$d" "$store/data/tree" --skip .somfs

echo "- the source's disk fills, all of it overwritten while groups are cut"
for round in 1 2 3; do
    for i in $(seq 20); do
        head -c 1000000 /dev/urandom | dd of="$d/f$i" bs=100k conv=notrunc iflag=fullblock status=none 2>"$scratch/err" || same "overwriting f$i, round $round" "$(cat "$scratch/err")" "no error"
    done
done
big=0
while head -c 1000000 /dev/urandom >"$d/big$big" 2>"$scratch/last"; do
    big=$((big + 1))
    [ $big -lt 150 ] || break
done
[ $big -ge 20 ] || same "the application filled the disk" "$big MB, then: $(cat "$scratch/last")" "20 MB or more"
for i in $(seq 20); do
    dd if=/dev/urandom of="$d/f$i" bs=4k count=3 conv=notrunc status=none 2>"$scratch/err" || same "in place in f$i" "$(cat "$scratch/err")" "no error"
done
check "fsync" sync "$d/f2"
case $(state_of "$near") in SYNCED | CATCHING-UP | DEGRADED) ;; *) same "state" "$(state_of "$near"): $(state_of "$near" reason)" "SYNCED, CATCHING-UP or DEGRADED" ;; esac
echo "  full: $(state_of "$near") $(state_of "$near" reason)"
rm "$d"/big*
becomes SYNCED "$near"
becomes SYNCED "$target"
check "syncs" somfs-ctl sync "$d" --timeout 60
check "equal" treecmp "$d" "$near/tree" --skip .somfs
check "equal" treecmp "$d" "$store/data/tree" --skip .somfs
check "verify" somfs-ctl verify "$d" "$target"
check "stops" somfs-ctl umount "$d"
passed
