#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# An ordinary user's writes stop where they stop on the file system beneath: what is reserved for root stays free, and root gets it.
. "$(dirname "$0")/lib.sh"
command -v setpriv >/dev/null || skip "needs setpriv"

truncate -s 256M "$scratch/image"
mkfs.ext4 -q -F -m 25 "$scratch/image" || skip "needs mkfs.ext4"
mkdir "$scratch/disk"
mount -o loop "$scratch/image" "$scratch/disk" 2>/dev/null || skip "needs loop devices"
chmod 755 "$scratch"
mkdir "$scratch/disk/vol"
chmod 1777 "$scratch/disk" "$scratch/disk/vol"

# Free and, of these, reserved megabytes.
room() { stat -f -c '%f %a %S' "$scratch/disk" | awk '{printf "%d %d\n", $1 * $3 / 1048576, ($1 - $2) * $3 / 1048576}'; }
user_fills() { setpriv --reuid 1234 --regid 1234 --clear-groups dd if=/dev/zero of="$1" bs=64k conv=fsync status=none 2>"$scratch/err"; }
reserve=$(room | cut -d' ' -f2)

user_fills "$scratch/disk/native" && same "natively it ends" never ENOSPC
native_left=$(room | cut -d' ' -f1)
rm "$scratch/disk/native"
same "the reserve holds natively" "$((native_left >= reserve - 1))" 1

check "mounts" somfs "$scratch/disk/vol"
user_fills "$scratch/disk/vol/written" && same "through the mount it ends" never ENOSPC
same "for want of space" "$(grep -ci "no space" "$scratch/err")" 1
left=$(room | cut -d' ' -f1)
same "the reserve holds ($left of $reserve MB left)" "$((left >= reserve - 1))" 1
setpriv --reuid 1234 --regid 1234 --clear-groups fallocate -l 8M "$scratch/disk/vol/allocated" 2>"$scratch/err"
same "fallocate takes nothing of it either" "$?" 1
check "root gets it" dd if=/dev/zero of="$scratch/disk/vol/roots" bs=1M count=8 conv=fsync
check "unmounts" somfs-ctl umount "$scratch/disk/vol"
umount "$scratch/disk"
passed
