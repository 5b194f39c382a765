#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# mount(8) and /etc/fstab: the programs are found by name in /usr/local/bin, here a directory of the test's own in a mount namespace.
[ "${1:-}" = inside ] || exec unshare -m "$0" inside
. "$(dirname "$0")/lib.sh"
[ -x /sbin/mount.fuse ] || [ -x /usr/sbin/mount.fuse ] || skip "needs mount.fuse (package fuse3)"
mkdir "$scratch/bin"
for program in somfs somfs-ctl somfs-mirrord; do ln -s "$SOMFS_BIN/$program" "$scratch/bin/$program"; done
mount --bind "$scratch/bin" /usr/local/bin || skip "cannot put the programs into /usr/local/bin"

d=$scratch/vol at=$scratch/at
make_tree "$d" --seed 2 --files 20 --profile small
cp -a "$d" "$scratch/before"
mkdir "$at"
type_of() { awk -v d="$1" '$5 == d {for (i = 1; i <= NF; i++) if ($i == "-") print $(i+1)}' /proc/self/mountinfo; }

echo "- mount -t fuse.somfs at another place"
check "mounts" mount -t fuse.somfs "$d" "$at"
same "type" "$(type_of "$at")" fuse.somfs
check "shows the tree" treecmp "$scratch/before" "$at" --skip .somfs
check "a snapshot, by the directory" somfs-ctl snapshot create "$d" --name s
check "and by the mount point" somfs-ctl snapshot delete "$at" s
pid=$(mount_pid "$d")
check "unmounts" umount "$at"
check "the process ends" wait_gone "$pid"
(cd "$d"; mount -t fuse.somfs "$d" "$at" 2>"$scratch/err"; echo "$?" >"$scratch/code")
same "from within: the shell is named, mount and its helpers are not" "$(cat "$scratch/code") $(wc -l <"$scratch/err") $(grep -c "^somfs: warning: bash .*gone in again at $at" "$scratch/err")" "0 1 1"
pid=$(mount_pid "$d")
check "unmounts" umount "$at"
check "the process ends" wait_gone "$pid"

echo "- from fstab, over itself, with options"
printf '[volume]\nexclude = ["no-such-cache"]\n' >"$scratch/vol.conf"
printf '%s %s fuse.somfs defaults,nofail,nosuid,nodev,noexec,noatime,x-systemd.automount,config=%s 0 0\n' "$d" "$d" "$scratch/vol.conf" >"$scratch/fstab"
check "mounts" mount --fstab "$scratch/fstab" "$d"
same "type" "$(type_of "$d")" fuse.somfs
check "shows the tree" treecmp "$scratch/before" "$d" --skip .somfs
for o in nosuid nodev noexec noatime; do
    same "$o holds" "$(awk -v d="$d" '$5 == d {print $6}' /proc/self/mountinfo | tr , '\n' | grep -cx $o)" 1
done
check "verb" somfs-ctl status "$d" --json
pid=$(field volumes.0.pid <"$scratch/out")
check "remounts read-only" mount --fstab "$scratch/fstab" -o remount,ro "$d"
same "and is" "$(touch "$d/no" 2>&1 | grep -c 'Read-only')" 1
same "nosuid holds" "$(awk -v d="$d" '$5 == d {print $6}' /proc/self/mountinfo | tr , '\n' | grep -cx nosuid)" 1
check "remounts read-write" mount -o remount,rw "$d"
check "and is" touch "$d/yes"
check "unmounts" umount "$d"
check "the process ends" wait_gone "$pid"

echo "- refusals come through"
mount -t fuse.somfs -o nonsense "$d" "$at" >"$scratch/out" 2>"$scratch/err"
same "an unknown option is refused" "$(( $? != 0 ))" 1
same "by name" "$(grep -c nonsense "$scratch/err")" 1
mount -t fuse.somfs "$scratch/none" "$at" >"$scratch/out" 2>"$scratch/err"
same "a missing directory is refused" "$(( $? != 0 ))" 1
mount -t fuse.somfs -o remount,ro "$d" "$at" >"$scratch/out" 2>"$scratch/err"
same "a remount of nothing is refused" "$(( $? != 0 ))" 1
same "nothing is mounted" "$(type_of "$d")$(type_of "$at")" ""
passed
