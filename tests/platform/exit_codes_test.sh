#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The documented exit codes that need a situation made for them: writer veto, no space, a busy target, a link that is down, a peer of
# another version, an interruption. Partial runs are in user_test.sh, the others in commands_test.sh.
. "$(dirname "$0")/lib.sh"

d=$scratch/vol m=$scratch/mirror
make_tree "$d" --seed 5 --files 20 --profile small
mkdir "$scratch/hooks"
cat >"$scratch/hooks/app" <<'HOOK'
#!/bin/sh
[ "$1" = release ] || { echo "not now" >&2; exit 1; }
HOOK
chmod 755 "$scratch/hooks/app"
printf '[[writer]]\ntype = "hooks"\ndirectory = "%s"\n' "$scratch/hooks" >"$scratch/vol.conf"
check "mounts" somfs "$d" -o config="$scratch/vol.conf"

echo "- 7: a writer vetoes"
code_is 7 somfs-ctl snapshot create "$d" --name vetoed
same "the reason is told" "$(grep -c "not now" "$scratch/err")" 1
code_is 7 somfs-ctl migrate "$d" "$m"
check "no snapshot is left" somfs-ctl snapshot list "$d" --json
same "none" "$(field snapshots <"$scratch/out")" "[]"
code_is 7 somfs-ctl snapshot create "$d" --name vetoed --json
same "the error is an object" "$(field error.exit <"$scratch/out")" 7
same "schema comes first" "$(cut -c1-11 "$scratch/out")" '{"schema":1'
code_is 0 somfs-ctl snapshot create "$d" --name without --crash-consistent
check "delete" somfs-ctl snapshot delete "$d" without
check "stops" somfs-ctl umount "$d"
check "mounts without writers" somfs "$d"
check "migrates" somfs-ctl migrate "$d" "$m" --quiet

echo "- 11 and 130: a slow run, another one meanwhile, an interruption"
head -c 4000000 /dev/urandom >"$d/large"
somfs-ctl migrate "$d" "$m" --bwlimit 100K >"$scratch/slow.out" 2>"$scratch/slow.err" &
slow=$!
started="$started $slow"
for _ in $(seq 300); do [ "$(somfs-ctl status "$d" --json | field volumes.0.mirrors.0.state)" = MIGRATING ] && break; sleep 0.1; done
code_is 11 somfs-ctl migrate "$d" "$m"
kill -INT "$slow"
wait "$slow"
same "interrupted" $? 130
same "it says so in one line" "$(grep -c interrupted "$scratch/slow.err")" 1
[ -e "$m/tree/large" ] && same "the mirror shows the old state" there absent
check "the next run goes through" somfs-ctl migrate "$d" "$m" --quiet
check "mirror equals" treecmp "$d" "$m/tree" --skip .somfs

echo "- 12: the link is down;  13: the peer speaks another version"
t=ssh://host$m
SOMFS_SSH=false code_is 12 somfs-ctl migrate "$d" "$t"
printf '#!/bin/sh\nprintf "somf\\376\\002\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000\\000"\ncat >/dev/null\n' >"$scratch/newer"
chmod 755 "$scratch/newer"
SOMFS_SSH=$scratch/newer code_is 13 somfs-ctl migrate "$d" "$t"

echo "- 9: no space at the mirror"
mkdir "$scratch/small"
if truncate -s 12M "$scratch/image" && mkfs.ext4 -q -F "$scratch/image" && mount -o loop "$scratch/image" "$scratch/small"; then
    head -c 20000000 /dev/urandom >"$d/too-large"
    code_is 9 somfs-ctl migrate "$d" "$scratch/small/mirror"
    rm "$d/too-large" "$d/large"
    check "with room, the same mirror is made" somfs-ctl migrate "$d" "$scratch/small/mirror" --quiet
    check "mirror equals" treecmp "$d" "$scratch/small/mirror/tree" --skip .somfs
    for _ in $(seq 50); do umount "$scratch/small" 2>/dev/null && break; sleep 0.1; done
else
    echo "  (no loop device: passed over)"
fi
check "stops" somfs-ctl umount "$d"
passed
