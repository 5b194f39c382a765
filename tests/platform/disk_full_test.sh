#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Small disks that fill up. The application never notices somfs: its writes succeed until the disk is really full; snapshots go, with
# a reason, before that. A mirror without room says so, keeps its epoch, and goes on by itself once there is room; a read-only one says so.
. "$(dirname "$0")/lib.sh"
[ -e /dev/loop-control ] || skip "needs loop devices"

small() { # small NAME SIZE: a file system of its own at $scratch/NAME
    truncate -s "$2" "$scratch/$1.img"
    mkfs.ext4 -q -m 0 "$scratch/$1.img" && mkdir "$scratch/$1" && mount -o loop "$scratch/$1.img" "$scratch/$1" || skip "cannot mount a loop device"
}
free_of() { stat -f -c '%a * %S' "$1" | { read -r sum; echo $((sum)); }; }
small src 64M
small far 110M
d=$scratch/src/vol m=$scratch/far/mirror
mkdir "$d"
for i in $(seq 24); do head -c 1000000 /dev/urandom >"$d/f$i"; done
sync -f "$d"
check "mounts" somfs "$d"
check "first" somfs-ctl migrate "$d" "$m" --quiet

echo "- a snapshot is held while everything is overwritten and the disk fills"
check "snapshot" somfs-ctl snapshot create "$d" --name held --quiet
reserve=$(somfs-ctl status "$d" --json | field volumes.0.reserve_bytes)
for i in $(seq 24); do
    head -c 1000000 /dev/urandom | dd of="$d/f$i" bs=100k conv=notrunc iflag=fullblock status=none 2>"$scratch/err" ||
        same "overwriting f$i" "$(cat "$scratch/err")" "no error"
    # Nobody but the application takes the last of the disk.
    somfs-ctl status "$d" --json >"$scratch/json"
    free=$(field volumes.0.free_bytes <"$scratch/json")
    [ "$free" -ge "$reserve" ] || same "free at f$i" "$free" "the reserve of $reserve or more"
done
big=0
while head -c 1000000 /dev/urandom >"$d/big$big" 2>"$scratch/last"; do
    big=$((big + 1))
    [ $big -lt 100 ] || break
done
[ $big -ge 25 ] || same "the application filled the disk" "$big MB, then: $(cat "$scratch/last")" "25 MB or more"
somfs-ctl snapshot list "$d" --json >"$scratch/json"
same "the snapshot went" "$(field snapshots <"$scratch/json")" "[]"
check "with its reason" grep -q '"reason":"[^"]' "$scratch/json"
[ "$(free_of "$scratch/src")" -lt 1000000 ] || same "full means full" "$(free_of "$scratch/src") bytes free" "less than 1000000"

echo "- no room for the journal: the application goes on where it needs no room itself"
while head -c 4096 /dev/zero >>"$d/filler" 2>/dev/null; do :; done
for i in $(seq 24); do
    dd if=/dev/urandom of="$d/f$i" bs=4k count=3 conv=notrunc status=none 2>"$scratch/err" || same "in place in f$i" "$(cat "$scratch/err")" "no error"
done
n=0
for i in $(seq 200); do mv "$d/f1" "$d/f1-renamed" && mv "$d/f1-renamed" "$d/f1" && n=$((n + 1)); done
same "renames" "$n" 200
check "fsync" sync "$d/f2"
check "attributes" chmod 600 "$d/f3"
check "removal" rm "$d/f4"

echo "- a mirror without room: exit 9, the epoch before stays, and it goes on by itself"
rm -f "$d"/big* "$d/filler"
check "migrates" somfs-ctl migrate "$d" "$m" --quiet --confirm-removal
check "equal" treecmp "$d" "$m/tree" --skip .somfs
cp -a "$m/tree" "$scratch/before"
head -c 15000000 /dev/urandom >"$d/new"; echo changed >>"$d/f5"
head -c $(($(free_of "$scratch/far") - 9000000)) /dev/zero >"$scratch/far/other"
code_is 9 somfs-ctl migrate "$d" "$m"
check "the epoch before stays" treecmp "$scratch/before" "$m/tree"
check "it can be opened" somfs-ctl held list "$m"
code_is 9 somfs-ctl migrate "$d" "$m"
check "the epoch before stays" treecmp "$scratch/before" "$m/tree"
rm "$scratch/far/other"
sync -f "$scratch/far"  # ext4 gives out again what was freed once that is in its journal
check "with room it goes on" somfs-ctl migrate "$d" "$m" --quiet
check "equal" treecmp "$d" "$m/tree" --skip .somfs
# To the last block: not even a list can be written.
head -c 120000000 /dev/zero >"$scratch/far/other" 2>/dev/null
echo more >>"$d/f6"; mkdir "$d/dir"
code_is 9 somfs-ctl migrate "$d" "$m"
rm "$scratch/far/other"
sync -f "$scratch/far"
check "with room it goes on" somfs-ctl migrate "$d" "$m" --quiet
check "equal" treecmp "$d" "$m/tree" --skip .somfs

echo "- a mirror that became read-only says so in one line"
echo more >>"$d/f7"
mount -o remount,ro "$scratch/far"
somfs-ctl migrate "$d" "$m" >/dev/null 2>"$scratch/err"; code=$?
case $code in 2 | 10 | 75) ;; *) same "read-only mirror: exit" "$code" "2, 10 or 75" ;; esac
same "read-only mirror: one line" "$(wc -l <"$scratch/err")" 1
grep -qi "read-only" "$scratch/err" || same "a read-only mirror says" "$(cat "$scratch/err")" "that it is read-only"
mount -o remount,rw "$scratch/far"
check "writable again it goes on" somfs-ctl migrate "$d" "$m" --quiet
check "equal" treecmp "$d" "$m/tree" --skip .somfs
check "verify" somfs-ctl verify "$d" "$m"
check "stops" somfs-ctl umount "$d"
passed
