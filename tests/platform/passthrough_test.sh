#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# -o passthrough as a user meets it: what is said of it, what is refused, and replication and migration while readers hold files.
. "$(dirname "$0")/lib.sh"

d=$scratch/vol m=$scratch/mirror second=$scratch/second
make_tree "$d" --seed 9 --files 200 --profile mixed
head -c 300000 /dev/urandom >"$d/held"
seq 20000 >"$d/log"

echo "- what does not go together"
code_is 1 somfs -o writeback,passthrough "$d"
same "in one line" "$(grep -c 'writeback and passthrough' "$scratch/err")" 1
check "without" somfs "$d"
same "status does not speak of it" "$(somfs-ctl status "$d" | grep -c passthrough)" 0
check "doctor" somfs-ctl doctor "$d"
same "doctor does" "$(grep -c 'passthrough: not asked for' "$scratch/out")" 1
check "unmounts" somfs-ctl umount "$d"

echo "- what is said of it"
check "with" somfs -o passthrough,noatime "$d"
same "the promise is printed" "$(grep -c 'passthrough: .*ETXTBSY' "$scratch/err")" 1
cat "$d/held" >"$scratch/held"
check "status" somfs-ctl status "$d" --json
is=$(field volumes.0.in_force.passthrough <"$scratch/out")
[ "$is" = "in force" ] || { somfs-ctl umount "$d"; skip "passthrough is $is"; }
same "and kept" "$(field volumes.0.warning <"$scratch/out" | grep -c ETXTBSY)" 1
same "status" "$(somfs-ctl status "$d" | grep -c 'in force .*passthrough')" 1
check "doctor" somfs-ctl doctor "$d"
same "doctor" "$(grep -c 'good .*passthrough: in force' "$scratch/out")" 1

echo "- who reads and writes waits, and is told"
exec 8<"$d/held" 9<"$d/log"
python3 - "$d/held" <<'PY' || failures=$((failures + 1))
import errno, os, sys
try: os.open(sys.argv[1], os.O_RDWR)
except OSError as e: sys.exit(0 if e.errno == errno.ETXTBSY else f"FAILED: {e}")
sys.exit("FAILED: was let in")
PY

echo "- changes travel while readers hold the files"
check "a snapshot" somfs-ctl snapshot create "$d" --name before
check "migrates" somfs-ctl migrate "$d" "$m" --quiet
check "replicates" somfs-ctl replicate "$d" "$second"
python3 - "$d" <<'PY' || failures=$((failures + 1))
import os, sys
for i in range(1, 101):
    log, held = os.open(sys.argv[1] + "/log", os.O_WRONLY | os.O_APPEND), os.open(sys.argv[1] + "/held", os.O_WRONLY)
    os.write(log, b"line %d\n" % i)
    os.pwrite(held, b"block %04d" % i, 2970 * i)
    os.close(log), os.close(held)
PY
same "the reader sees what came" "$(tail -n 1 <&9)" "line 100"
mv "$d/held" "$d/moved"
head -c 1000 /dev/zero >"$d/held"
check "syncs" somfs-ctl sync "$d"
check "equal" treecmp "$d" "$second/tree" --skip .somfs
check "migrates" somfs-ctl migrate "$d" "$m" --quiet
check "verifies" somfs-ctl verify "$d" "$m"
check "equal" treecmp "$d" "$m/tree" --skip .somfs
same "the reader has what it opened" "$(sha256sum <&8)" "$(sha256sum <"$d/moved")"
check "the snapshot is what it was" cmp "$scratch/held" "$d/.somfs/snapshots/before/held"
same "all of it" "$(wc -l <"$d/.somfs/snapshots/before/log")" 20000

echo "- a kill, with readers that go on"
check "stops" somfs-ctl replicate "$d" "$second" --stop
pid=$(mount_pid "$d")
kill -9 "$pid"
check "gone" wait_gone "$pid"
cat <&8 >/dev/null 2>&1
exec 8<&- 9<&-
check "mounts again" somfs -o passthrough "$d"
echo after >>"$d/log"
check "migrates" somfs-ctl migrate "$d" "$m" --quiet
check "equal" treecmp "$d" "$m/tree" --skip .somfs
check "unmounts" somfs-ctl umount "$d"
check "equal beneath" treecmp "$d" "$m/tree" --skip .somfs
passed
