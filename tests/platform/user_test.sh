#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# An ordinary user, on a directory of their own: mounts through fusermount3, takes snapshots, migrates, without any privilege.
# In a mount namespace of its own, where /dev/fuse is open to everybody as on an ordinary machine.
[ "${1:-}" = inside ] || exec unshare -m "$0" inside
export TMPDIR=/var/tmp   # /tmp and /run are replaced below
. "$(dirname "$0")/lib.sh"
mknod "$scratch/fuse" c 10 229 && chmod 666 "$scratch/fuse" && mount --bind "$scratch/fuse" /dev/fuse || skip "cannot make a /dev/fuse for everybody"
command -v fusermount3 >/dev/null || skip "needs fusermount3 (package fuse3)"
chmod 755 "$scratch"
home=$scratch/home
mkdir "$home"; chown nobody: "$home"
as_user() { setpriv --reuid=nobody --regid=nogroup --clear-groups env -i PATH="$PATH" HOME="$home" SOMFS_RUN_DIR="$home/run" SOMFS_CONFIG_DIR="$home/etc" "$@"; }
as_user sh -c 'test -x "$(command -v somfs)"' || skip "the programs' directory is closed to other users"

d=$home/vol m=$home/mirror
as_user mkdir -p "$d/sub"
as_user sh -c "cd $d && for i in 1 2 3 4 5; do head -c 200000 /dev/urandom >f\$i; ln f\$i sub/l\$i; done; ln -s f1 s; mkfifo p; mkdir -p deep/er/est; echo x >deep/er/est/x"
check "mounts" as_user somfs "$d"
check "snapshot" as_user somfs-ctl snapshot create "$d" --name s
cp_before=$scratch/before
as_user cp -a "$d/.somfs/snapshots/s" "$home/before"
check "full" as_user somfs-ctl migrate "$d" "$m" --json
same "everything is their own" "$(cat "$scratch/err")" ""
check "equal" as_user treecmp "$d" "$m/tree" --skip .somfs
as_user sh -c "cd $d && echo new >f1 && rm f2 && mv deep moved && mv f3 sub/f3 && echo y >>moved/er/est/x && chmod 600 f4"
check "snapshot shows the past" as_user treecmp "$home/before" "$d/.somfs/snapshots/s"
check "differential" as_user somfs-ctl migrate "$d" "$m" --json
same "strategy" "$(field strategy <"$scratch/out")" differential
check "equal" as_user treecmp "$d" "$m/tree" --skip .somfs
check "verify" as_user somfs-ctl verify "$d" "$m"
ls "$d" >/dev/null 2>&1; same "others are kept out, root too" "$(( $? != 0 ))" 1
check "stops" as_user somfs-ctl umount "$d"
same "gone" "$(awk -v d="$d" '$5 == d' /proc/self/mountinfo | wc -l)" 0

# Files that cannot be read are named and left out; the rest is migrated.
echo secret >"$d/closed"; chmod 600 "$d/closed"; as_user sh -c "echo open >$d/open"
check "mounts again" as_user somfs "$d"
as_user somfs-ctl migrate "$d" "$m" >"$scratch/out" 2>"$scratch/err"; same "partial" $? 3
same "the file is named" "$(grep -c closed "$scratch/err")" 1
same "the others are there" "$(cat "$m/tree/open")" open
# They stay what is missing, at a mirror that was never complete too.
for i in 1 2; do as_user somfs-ctl migrate "$d" "$home/never" --quiet 2>/dev/null; same "partial again" $? 3; done
check "replicates" as_user somfs-ctl replicate "$d" "$home/always" --quiet
for i in 1 2; do as_user somfs-ctl sync "$d" >/dev/null 2>"$scratch/err"; same "what is missing is told" "$? $(grep -c closed "$scratch/err")" "3 1"; done
as_user somfs-ctl status "$d" --json >"$scratch/json"
python3 - "$scratch/json" <<'PY' || failures=$((failures + 1))
import json, sys
for m in json.load(open(sys.argv[1]))["volumes"][0]["mirrors"]:
    if m["target"].endswith("always") and not (m["state"] == "DEGRADED" and m["acked_lag_s"] and "closed" in m["reason"]):
        sys.exit(f"FAILED: {m}")
PY
as_user somfs-ctl replicate "$d" --stop --quiet
# Nor can they be kept for a snapshot when they go; what else is in it stays.
check "snapshot" as_user somfs-ctl snapshot create "$d" --name t
as_user sh -c "rm -f $d/closed; echo later >$d/open"
same "its size is known" "$(as_user stat -c %s "$d/.somfs/snapshots/t/closed")" 7
as_user cat "$d/.somfs/snapshots/t/closed" >/dev/null 2>"$scratch/err"; same "its content is not" "$(grep -c "Permission denied\|Input/output" "$scratch/err")" 1
same "the others are there" "$(as_user cat "$d/.somfs/snapshots/t/open")" open
check "stops" as_user somfs-ctl umount "$d"

# The mount serves this user alone, as the process behind it can act for nobody else.
code_is 10 as_user somfs "$d" -o allow_other
same "nothing is mounted" "$(awk -v d="$d" '$5 == d' /proc/self/mountinfo | wc -l)" 0

# What cannot be read on either side is told, and is never called equal: their own files without rights, a mirror's without rights.
d=$home/three m=$home/mirror3
as_user sh -c "mkdir -p $d/dir $d/shut && echo 1 >$d/file && echo 2 >$d/dir/in && echo 3 >$d/shut/in && echo 4 >$d/other"
check "mounts" as_user somfs "$d"
check "full" as_user somfs-ctl migrate "$d" "$m"
check "equal" as_user somfs-ctl verify "$d" "$m"
unequal() { # unequal "when" PATH...: verify ends with 6, names these as unreadable, and never says equal
    local when=$1 p; shift
    as_user somfs-ctl verify "$d" "$m" >"$scratch/words" 2>"$scratch/err"
    same "$when: exit" "$?" 6
    same "$when: lines of errors" "$(cat "$scratch/err")" ""
    for p in "$@"; do same "$when: $p is named" "$(grep -cx "differs: $p: unreadable" "$scratch/words")" 1; done
    same "$when: says so" "$(grep -c "^not equal: " "$scratch/words") $(grep -c "^equal" "$scratch/words")" "1 0"
    as_user somfs-ctl verify "$d" "$m" --json >"$scratch/json"
    same "$when: exit of --json" "$?" 6
    same "$when: equal" "$(field equal <"$scratch/json")" false
}
as_user chmod 0 "$m/tree/file";       unequal "a file of the mirror" file
same "the mirror's tree has no root" "$(field mirror_tree <"$scratch/json")" null
as_user chmod 600 "$m/tree/file"
as_user chmod 0 "$m/tree/dir";        unequal "a directory of the mirror" dir
as_user chmod 755 "$m/tree/dir"
as_user sh -c "mv $m/tree/other $m/tree/.was && mkdir $m/tree/other && chmod 0 $m/tree/other"; unequal "a directory in the place of a file" other
as_user sh -c "rmdir $m/tree/other && mv $m/tree/.was $m/tree/other"
as_user chmod 0 "$d/file";            unequal "a file of the source" file
same "the source's tree has no root" "$(field source_tree <"$scratch/json")" null
as_user chmod 0 "$d/shut";            unequal "and a directory" file shut
as_user somfs-ctl migrate "$d" "$m" --quiet 2>/dev/null
unequal "on both sides" file shut
as_user sh -c "chmod 755 $d/shut && chmod 644 $d/file"
check "migrates" as_user somfs-ctl migrate "$d" "$m" --quiet
check "equal again" as_user somfs-ctl verify "$d" "$m"
# A mirror's owner gets into directories that are closed to writers, or to everybody, and leaves them so.
as_user sh -c "mkdir -p $d/closed/deep && echo 1 >$d/closed/deep/a && chmod 555 $d/closed/deep && chmod 555 $d/closed"
check "migrates" as_user somfs-ctl migrate "$d" "$m" --quiet
as_user sh -c "chmod 755 $d/closed/deep && echo 2 >$d/closed/deep/b && rm $d/closed/deep/a && chmod 555 $d/closed/deep"
check "changes in them" as_user somfs-ctl migrate "$d" "$m" --json
same "by difference" "$(field strategy <"$scratch/out")" differential
same "as closed as they were" "$(stat -c %a "$m/tree/closed" "$m/tree/closed/deep" | tr '\n' ' ')" "555 555 "
check "stops" as_user somfs-ctl umount "$d"

# What belongs to others becomes the user's own at the mirror; that is said once, and is no difference.
d=$home/two m=$home/mirror2
as_user mkdir "$d"
for i in 1 2 3; do echo "$i" >"$d/of-root$i"; done
chmod 4755 "$d/of-root1"
check "mounts" as_user somfs "$d"
check "full" as_user somfs-ctl migrate "$d" "$m"
same "said once" "$(grep -c "does not run as root" "$scratch/err")" 1
same "no set-id bit for another owner" "$(stat -c %a "$m/tree/of-root1")" 755
check "verify" as_user somfs-ctl verify "$d" "$m"
same "said once" "$(grep -c "does not run as root" "$scratch/out")" 1
check "stops" as_user somfs-ctl umount "$d"

# A mount made in a login session is found from a crontab, where XDG_RUNTIME_DIR is not set, and the other way round; also when it is set to another place.
case $SOMFS_BIN$SOMFS_TOOLS in /tmp/*) echo "  (the programs lie in /tmp: the places of mounts are passed over)"; passed ;; esac
mount -t tmpfs -o mode=1777,size=1m none /tmp && mount -t tmpfs -o mode=755,size=1m none /run || skip "cannot replace /tmp and /run"
uid=$(id -u nobody)
mkdir -p "/run/user/$uid" "$scratch/runtime" && chown nobody: "/run/user/$uid" "$scratch/runtime" && chmod 700 "/run/user/$uid" "$scratch/runtime"
as() { setpriv --reuid=nobody --regid=nogroup --clear-groups env -i PATH="$PATH" HOME="$home" "$@"; }
d=$home/places
as mkdir "$d"; as sh -c "echo x >$d/f"
found() { # found "what" VARIABLE=...: by all verbs that look
    what=$1
    shift
    check "$what" as "$@" somfs-ctl status "$d" --json
    same "$what, once in the list" "$(as "$@" somfs-ctl status --json | python3 -c 'import json,sys; print(len(json.load(sys.stdin)["volumes"]))')" 1
}
session=XDG_RUNTIME_DIR=/run/user/$uid other=XDG_RUNTIME_DIR=$scratch/runtime cron=NOTHING=here
for place in "$session" "$other" "$cron"; do
    check "mounts with $place" as "$place" somfs "$d"
    for look in "$session" "$other" "$cron"; do
        # A place of its own that is only named by the variable cannot be known without it.
        [ "$place" = "$other" ] && [ "$look" != "$other" ] && { code_is 75 as "$look" somfs-ctl status "$d"; continue; }
        found "mounted with $place, found with $look" "$look"
    done
    check "stops" as "$place" somfs-ctl umount "$d"
done
# What another user put there is not believed, nor what others could write to.
check "mounts" as "$cron" somfs "$d"
chmod 755 "/tmp/somfs-$uid"; code_is 75 as "$session" somfs-ctl status "$d"
chmod 700 "/tmp/somfs-$uid"; found "closed again" "$session"
chown root: "/tmp/somfs-$uid"; chmod 777 "/tmp/somfs-$uid"; code_is 75 as "$session" somfs-ctl status "$d"
chown nobody: "/tmp/somfs-$uid"; chmod 700 "/tmp/somfs-$uid"
check "stops" as "$session" somfs-ctl umount "$d"
passed
