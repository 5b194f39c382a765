#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Random calls of every kind on the mount, as root and as an ordinary user: migrated in full, then more of them and by difference.
# Each time the mirror equals the source in every attribute, and `verify` says so too.
#
#   parity_test.sh      SOMFS_ROUNDS, SOMFS_SEED
. "$(dirname "$0")/lib.sh"
rounds=${SOMFS_ROUNDS:-3} seed=${SOMFS_SEED:-21}

d=$scratch/vol m=$scratch/mirror
mkdir "$d"
chmod 755 "$scratch"
check "mounts" somfs "$d"
mkdir "$d/root" "$d/user"; chown 1234:1234 "$d/user"
operate() { # operate SEED: in what the seeds before have left, which the mirror holds
    check "seed $1" randops --seed "$1" --ops 1500 "$d/root"
    check "seed $1 as a user" randops --seed $(($1 + 1000)) --ops 1500 --uid 1234 "$d/user"
}
migrated() { # migrated STRATEGY
    check "migrates" somfs-ctl migrate "$d" "$m" --json || return
    same "strategy" "$(field strategy <"$scratch/out")" "$1"
    same "all was read" "$(field unreadable <"$scratch/out")" "[]"
    check "mirror equals" treecmp "$d" "$m/tree" --skip .somfs
    check "verify" somfs-ctl verify "$d" "$m" --json
    same "equal" "$(field equal <"$scratch/out")" true
}
operate "$seed"
# An access list on what is neither a file nor a directory: the mirror must take it where the source did.
python3 - "$d" <<'PY' || skip "cannot make a socket here"
import os, socket, sys
os.chdir(sys.argv[1])
os.mkfifo("fifo")
socket.socket(socket.AF_UNIX).bind("socket")
PY
migrated full
if command -v setfacl >/dev/null; then
    check "an access list of a fifo and a socket" setfacl -m u:1234:rw,g:1235:r "$d/fifo" "$d/socket"
    migrated differential
fi
for i in $(seq "$rounds"); do
    operate $((seed + i))
    migrated differential
done
check "stops" somfs-ctl umount "$d"
echo "rounds $rounds, seed $seed"
passed
