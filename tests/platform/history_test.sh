#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What happens while somfs is not looking: unmounted intervals, kills, moved-in trees, replaced directories, deletions,
# a source older than its mirror. After each the next migration is a gap scan and the mirror equals the source.
. "$(dirname "$0")/lib.sh"

d=$scratch/vol m=$scratch/mirror
make_tree "$d" --seed 7 --files 150 --profile odd
start() { check "mounts" somfs "$d"; }
stop() { check "unmounts" somfs-ctl umount "$d"; }
migrated() { # migrated STRATEGY
    check "migrates" somfs-ctl migrate "$d" "$m" --json || return
    same "strategy" "$(field strategy <"$scratch/out")" "$1"
    check "mirror equals" treecmp "$d" "$m/tree" --skip .somfs
}
start; migrated full; migrated differential; stop

echo "- changes beneath, a deletion, a rename, while off"
mkdir -p "$d/a/b"; echo one >"$d/a/b/one"; echo two >"$d/two"
start; migrated gap-scan; migrated differential; stop
rm "$d/two"; mv "$d/a/b" "$d/b-moved"; echo more >>"$d/b-moved/one"
start; migrated gap-scan; stop

echo "- a tree moved in, with old times"
mkdir "$scratch/outside"; for i in 1 2 3; do echo "$i" >"$scratch/outside/$i"; done
touch -d 2001-01-01 "$scratch/outside"/* "$scratch/outside"
sleep 0.1; mv "$scratch/outside" "$d/moved-in"
start; migrated gap-scan; stop

echo "- a directory replaced by another of the same name"
mkdir "$scratch/new"; echo other >"$scratch/new/1"; rm -rf "$d/moved-in"; mv "$scratch/new" "$d/moved-in"
start; migrated gap-scan; stop

echo "- killed, changed by hand, started again over the dead mount"
start
echo seen >"$d/seen"
pid=$(mount_pid "$d"); kill -9 "$pid"; wait_gone "$pid"
same "the dead mount says so" "$(ls "$d" 2>&1 | grep -c 'not connected')" 1
start
same "one mount, not two" "$(awk -v d="$d" '$5 == d' /proc/self/mountinfo | wc -l)" 1
check "written before the kill" grep -q seen "$d/seen"
migrated gap-scan; migrated differential

echo "- snapshots hold over a kill, and go when the tree was changed meanwhile"
check "snapshot" somfs-ctl snapshot create "$d" --name s   # the mirror holds the same instant, and keeps it for comparison
echo overwritten >"$d/seen"; rm -rf "$d/b-moved"
pid=$(mount_pid "$d"); kill -9 "$pid"; wait_gone "$pid"
start
check "snapshot holds" treecmp "$m/tree" "$d/.somfs/snapshots/s"
stop; start
check "over a clean stop too" treecmp "$m/tree" "$d/.somfs/snapshots/s"
stop
sleep 0.1; echo behind >"$d/behind"
start
check "list" somfs-ctl snapshot list "$d" --json
cp "$scratch/out" "$scratch/json"
same "dropped" "$(field snapshots <"$scratch/json")" "[]"
check "with the reason" grep -q "not mounted" "$scratch/json"
migrated gap-scan

echo "- a source older than its mirror: its disk is put back to an earlier state"
keep_d=$d keep_m=$m
stop
d=$scratch/disk m=$scratch/disk-mirror
mkdir "$d"; truncate -s 64M "$scratch/image"; mkfs.ext4 -q -F "$scratch/image"
attach() { for _ in $(seq 50); do mount -o loop "$scratch/image" "$d" 2>/dev/null && return 0; sleep 0.1; done; return 1; }
detach() { for _ in $(seq 50); do umount "$d" 2>/dev/null && return 0; sleep 0.1; done; return 1; }
if attach; then
    treegen "$d/t" --seed 9 --files 120 --profile mixed 2>/dev/null || make_tree "$d/t" --seed 9 --files 120 --profile mixed
    start; migrated full; stop
    check "detaches" detach; cp --sparse=always "$scratch/image" "$scratch/image.old"; attach
    start; echo newer >"$d/newer"; echo more >>"$d/t/more"; migrated gap-scan; echo even >"$d/even"; rm -f "$d/newer"; migrated differential; stop
    check "detaches" detach; cp --sparse=always "$scratch/image.old" "$scratch/image"; attach
    start
    check "migrates" somfs-ctl migrate "$d" "$m" --json
    check "mirror equals the older source" treecmp "$d" "$m/tree" --skip .somfs
    migrated differential
    check "verify" somfs-ctl verify "$d" "$m"
    stop; check "detaches" detach
else
    echo "  (no loop device: passed over)"
fi
d=$keep_d m=$keep_m
start

echo "- a damaged journal"
stop
for f in "$d"/.somfs/journal/state*; do dd if=/dev/urandom of="$f" bs=64 count=1 conv=notrunc 2>/dev/null; done
echo after >"$d/after-damage"
start
check "migrates" somfs-ctl migrate "$d" "$m" --json
check "mirror equals" treecmp "$d" "$m/tree" --skip .somfs

echo "- many snapshots, all looked at: what was looked at lets go of its descriptors"
for i in $(seq 40); do
    echo "$i" >"$d/which"
    check "snapshot $i" somfs-ctl snapshot create "$d" --name "many$i" --quiet
    same "snapshot $i" "$(cat "$d/.somfs/snapshots/many$i/which")" "$i"
done
same "the first" "$(cat "$d/.somfs/snapshots/many1/which")" 1
count=$(ls "/proc/$(mount_pid "$d")/fd" | wc -l)
[ "$count" -lt 1600 ] || same "descriptors" "$count" "fewer than 1600"
for i in $(seq 40); do check "removes $i" somfs-ctl snapshot delete "$d" "many$i" --quiet; done

echo "- a copy beside the original is another volume"
stop
d=$scratch/first m=$scratch/first-mirror
mkdir "$d"; echo ours >"$d/which"
start
check "migrates" somfs-ctl migrate "$d" "$m" --quiet
stop
cp -a "$d" "$scratch/beside"
start
generation=$(somfs-ctl status "$d" --json | field volumes.0.generation)
check "mounts the copy" somfs "$scratch/beside"
[ "$(somfs-ctl status "$scratch/beside" --json | field volumes.0.generation)" != "$generation" ] || same "generation" "$generation" "another one"
echo theirs >"$scratch/beside/which"
check "the copy goes on" somfs-ctl migrate "$scratch/beside" "$m" --quiet
code_is 8 somfs-ctl migrate "$d" "$m"
same "nothing was overwritten" "$(cat "$m/tree/which")" theirs
check "unmounts it" somfs-ctl umount "$scratch/beside"
echo "- a damaged snapshot store: what cannot be trusted is dropped with its reason; the data stay"
# flip FILE [AT]: a byte of it, in the middle unless told
flip() { python3 - "$@" <<'PY'
import os, sys
path = sys.argv[1]
with open(path, "r+b") as f:
    at = int(sys.argv[2]) if len(sys.argv) > 2 else os.path.getsize(path) // 2
    f.seek(at); b = f.read(1); f.seek(at); f.write(bytes([b[0] ^ 0x40]))
PY
}
stop
d=$scratch/store-vol m=$scratch/store-mirror
mkdir "$d"; make_tree "$d" --seed 11 --files 60 --profile small
start; migrated full
# damaged NAME KEPT FILE [AT]: two snapshots with changes after each, a byte of FILE turned, or its end cut off; what must be kept then. All that is
# kept must be right.
damaged() {
    local name=$1 want=$2 file=$3 at=${4:-}
    rm -rf "$scratch/was"; cp -a "$d" "$scratch/was"
    check "$name: snapshot" somfs-ctl snapshot create "$d" --name old --quiet
    for f in $(seq 20); do echo "$name $f" >"$d/first-$f"; done
    rm -rf "$scratch/was-new"; cp -a "$d" "$scratch/was-new"
    check "$name: snapshot" somfs-ctl snapshot create "$d" --name new --quiet
    for f in $(seq 20); do echo "$name $f, again" >"$d/first-$f"; echo "$f" >>"$d/second-$f"; done
    rm -rf "$scratch/is"; cp -a "$d" "$scratch/is"
    stop
    file=$(echo "$d"/.somfs/store/$file)
    check "$name: $file is there" test -s "$file"
    if [ "$at" = cut ]; then truncate -s 1 "$file"; else flip "$file" $at; fi
    somfs "$d" >"$scratch/out" 2>"$scratch/err"; code=$?
    same "$name: mounts" "$code" 0
    same "$name: a line for each that is dropped, and no more" "$(grep -vcE 'dropped snapshot (old|new): .{10}' "$scratch/err") $(($(wc -l <"$scratch/err") <= 2))" "0 1"
    check "$name: the data are all there" treecmp "$scratch/is" "$d"
    somfs-ctl status "$d" --json >"$scratch/status"
    for s in old new; do
        was=$scratch/was; [ "$s" = old ] || was=$scratch/was-new
        if [ -d "$d/.somfs/snapshots/$s" ]; then check "$name: $s holds" treecmp "$was" "$d/.somfs/snapshots/$s"
        else check "$name: $s was dropped, and why" python3 -c 'import json, sys
assert any(x["name"] == sys.argv[2] and len(x["reason"]) > 10 for x in json.load(open(sys.argv[1]))["volumes"][0]["dropped"])' "$scratch/status" "$s"
        fi
    done
    kept=$(ls "$d/.somfs/snapshots" | tr '\n' ' ')
    same "$name: what is kept" "$kept" "$want"
    check "$name: migrates" somfs-ctl migrate "$d" "$m" --quiet
    check "$name: mirror equals" treecmp "$d" "$m/tree" --skip .somfs
    for s in old new; do [ ! -d "$d/.somfs/snapshots/$s" ] || check "$name: goes" somfs-ctl snapshot delete "$d" "$s" --quiet; done
    check "$name: another snapshot" somfs-ctl snapshot create "$d" --name after --quiet
    check "$name: holds" treecmp "$scratch/is" "$d/.somfs/snapshots/after"
    check "$name: goes" somfs-ctl snapshot delete "$d" after --quiet
}
damaged "log of the newer" "" '*-new/log'
damaged "log of the older" "new " '*-old/log'
damaged "info of the newer" "" '*-new/info'
damaged "data of the newer, cut off" "" '*-new/data' cut
damaged "the head's name" "" head 3
damaged "the head's counter" "new old " head 64
passed
