#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Corners where requests of different kinds meet: restoring from a snapshot with copy_file_range, O_DIRECT taken back, mapped
# pages at a cut, who may read the past, names of our own, mirrors that would hold themselves.
. "$(dirname "$0")/lib.sh"

d=$scratch/vol
mkdir -p "$d/sub" "$d/private"
chmod 755 "$scratch"
head -c 300000 /dev/urandom >"$d/file"
echo secret >"$d/sub/secret"; chmod 600 "$d/sub/secret"
echo hidden >"$d/private/hidden"; chmod 644 "$d/private/hidden"; chmod 700 "$d/private"
cp -a "$d" "$scratch/before"
check "mounts" somfs "$d"
pid=$(mount_pid "$d")

# What is mapped and dirty when the snapshot is asked for belongs to it.
cat >"$scratch/mapped.py" <<'P'
import mmap, os, subprocess, sys
path, snapshot = sys.argv[1], sys.argv[2:]
fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
os.ftruncate(fd, 8192)
m = mmap.mmap(fd, 8192)
m[4096:4102] = b"mapped"
sys.exit(subprocess.call(snapshot))
P
check "snapshot beside a mapping" python3 "$scratch/mapped.py" "$d/mapped" somfs-ctl snapshot create "$d" --name mapped
same "mapped pages are in it" "$(dd if="$d/.somfs/snapshots/mapped/mapped" bs=1 skip=4096 count=6 2>/dev/null)" mapped
rm "$d/mapped"

# Restoring: cp reads out of the snapshot with copy_file_range.
check "snapshot" somfs-ctl snapshot create "$d" --name s
echo gone >"$d/file"
cat >"$scratch/copy.py" <<'P'
import os, sys
a, b = os.open(sys.argv[1], os.O_RDONLY), os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
while os.copy_file_range(a, b, 1 << 20) > 0: pass
P
check "copy_file_range out of a snapshot" python3 "$scratch/copy.py" "$d/.somfs/snapshots/s/file" "$d/file"
check "restored" cmp "$scratch/before/file" "$d/file"
check "cp out of a snapshot" cp "$d/.somfs/snapshots/s/file" "$d/file2"
check "restored" cmp "$scratch/before/file" "$d/file2"
same "the same process serves" "$(mount_pid "$d")" "$pid"

# dd takes O_DIRECT back for the last, unaligned block.
check "dd with a tail" dd if="$scratch/before/file" of="$d/direct" bs=64k oflag=direct
check "the tail is there" cmp "$scratch/before/file" "$d/direct"

# Who could not read it then cannot read it there.
chmod 644 "$d/sub/secret"; chmod 755 "$d/private"
as_nobody() { setpriv --reuid=nobody --regid=nogroup --clear-groups "$@"; }
check "readable now" as_nobody cat "$d/sub/secret"
check "readable now" as_nobody cat "$d/private/hidden"
past=$d/.somfs/snapshots/s
as_nobody cat "$past/sub/secret" >/dev/null 2>&1; same "not readable in the past" "$?" 1
as_nobody cat "$past/private/hidden" >/dev/null 2>&1; same "not reachable in the past" "$?" 1
check "public is public" as_nobody cat "$past/file"
as_nobody somfs-ctl snapshot list "$d" >/dev/null 2>"$scratch/err"; same "strangers control nothing" "$?" 10

# Our name at the root is ours; anywhere else it is a name.
for c in "mkdir $d/.somfs" "rmdir $d/.somfs" "mv $d/sub $d/.somfs" "mv -T $d/.somfs $d/x" "touch $d/.somfs/x" "ln $d/file $d/.somfs/x" \
         "mkdir $d/.somfs/snapshots/x" "rm -r $d/.somfs/snapshots/s/sub" "mv $d/.somfs/snapshots/s $d/s" "chmod 777 $d/.somfs"; do
    $c >/dev/null 2>&1; same "refused: $c" "$(( $? != 0 ))" 1
done
check "an ordinary name below" mkdir "$d/sub/.somfs"
check "an ordinary name below" touch "$d/sub/.somfs/x"
same "and listed there" "$(ls -A "$d/sub" | grep -c '^\.somfs$')" 1

# A snapshot that goes while it is read: an error, and the mount lives.
exec 7<"$past/file"
cd "$past/sub" || exit 1
check "delete" somfs-ctl snapshot delete "$d" s
head -c 10 <&7 >/dev/null 2>&1
ls . >/dev/null 2>&1
cat secret >/dev/null 2>&1
cd / || exit 1
exec 7<&-
check "the mount lives" ls "$d/.somfs/snapshots"

# A mirror in what it mirrors would hold itself, however it is spelled.
ln -s "$d/sub" "$scratch/link"
mkdir "$scratch/bound"; mount --bind "$d" "$scratch/bound"
for t in "$d" "$d/mirror" "$d/sub/deep/mirror" "$scratch/link/mirror" "$scratch/bound/sub/m" "$scratch"; do
    code_is 1 somfs-ctl migrate "$d" "$t"
    same "nothing was made" "$(ls -d "$t/.somfs-mirror" 2>/dev/null)" ""
done
umount "$scratch/bound"
check "beside it is fine" somfs-ctl migrate "$d" "$scratch/mirror" --quiet
check "mirror equals" treecmp "$d" "$scratch/mirror/tree" --skip .somfs
check "stops" somfs-ctl umount "$d"

# Two at once over one directory: one gets it.
somfs "$d" 2>"$scratch/err1" & a=$!
somfs "$d" 2>"$scratch/err2" & b=$!
wait $a; ra=$?
wait $b; rb=$?
same "one of two" "$(( (ra == 0) + (rb == 0) ))" 1
same "mounted once" "$(awk -v d="$d" '$5 == d' /proc/self/mountinfo | wc -l)" 1
check "stops" somfs-ctl umount "$d"

# Unmounted lazily with a file open: what is still written is seen, and the process ends with the last user.
check "mounts" somfs "$d"
pid=$(mount_pid "$d")
exec 8>>"$d/file"
umount -l "$d"
echo late >&8
exec 8>&-
check "the process ends" wait_gone "$pid"
check "written" grep -q late "$d/file"
check "mounts again" somfs "$d"
check "differential or gap scan" somfs-ctl migrate "$d" "$scratch/mirror" --json
check "mirror equals" treecmp "$d" "$scratch/mirror/tree" --skip .somfs

# SIGTERM with a file open: detached and flushed, nothing hangs.
pid=$(mount_pid "$d")
exec 8>>"$d/file"
kill -TERM "$pid"
check "ends on SIGTERM" wait_gone "$pid"
exec 8>&-
passed
