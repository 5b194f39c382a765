#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The contract of the commands: verbs, options, JSON fields, exit codes.
. "$(dirname "$0")/lib.sh"

d=$scratch/vol m=$scratch/mirror
make_tree "$d" --seed 1 --files 200 --profile mixed
cp -a "$d" "$scratch/before"

# Bad input before anything is mounted: one line, the documented code, nothing made.
code_is 75 somfs-ctl status "$d"
code_is 75 somfs-ctl migrate "$d" "$m"
code_is 1 somfs
code_is 1 somfs "$d" -o nonsense
code_is 2 somfs "$d" -o config="$scratch/none.conf"
[ -e "$m" ] && same "no mirror made" there absent
# What is refused, and with which code: a directory that is not there or is none, also in the middle of a path or as the mount point.
refused() { # refused N "words" command...: with N and one line, the words and the advice in it
    code=$1 words=$2
    shift 2
    code_is "$code" "$@"
    same "one line that says: $words ($(cat "$scratch/err"))" "$(wc -l <"$scratch/err") $(grep -c "$words.*;" "$scratch/err")" "1 1"
}
touch "$scratch/file"; mkfifo "$scratch/fifo"; mkdir "$scratch/at"
for none in missing missing/deeper; do
    for command in "somfs $scratch/$none" "somfs $d $scratch/$none" "somfs-ctl status $scratch/$none" "somfs-ctl snapshot list $scratch/$none" "somfs-ctl umount $scratch/$none"; do
        refused 1 "$scratch/$none: No such file" $command
    done
done
for none in file fifo file/deeper; do
    for command in "somfs $scratch/$none" "somfs $d $scratch/$none" "somfs-ctl status $scratch/$none"; do refused 1 "$scratch/$none: Not a directory" timeout 20 $command; done
done
mkdir "$scratch/own" && cp "$SOMFS_BIN/somfs" "$scratch/own" && refused 2 "somfs itself runs from there" "$scratch/own/somfs" "$scratch/own"
mkdir -p "$scratch/outer/inner" && mount -t tmpfs -o size=64k none "$scratch/outer/inner" && refused 2 "another file system is mounted beneath it at $scratch/outer/inner" somfs "$scratch/outer"
umount "$scratch/outer/inner"
refused 1 "inside the protected directory" somfs "$scratch/outer" "$scratch/outer/inner"
check "mounts" somfs "$scratch/outer"
check "migrates" somfs-ctl migrate "$scratch/outer" "$scratch/outer-mirror" --quiet
check "stops" somfs-ctl umount "$scratch/outer"
exec 9>>"$scratch/outer/held"
refused 11 "open for writing: $scratch/outer/held by" somfs "$scratch/outer"
check "force" somfs --force "$scratch/outer"
echo unseen >&9
exec 9>&-
check "the next migration compares" somfs-ctl migrate "$scratch/outer" "$scratch/outer-mirror" --json
same "strategy" "$(field strategy <"$scratch/out")" gap-scan
check "and finds what was written" treecmp "$scratch/outer" "$scratch/outer-mirror/tree" --skip .somfs
check "stops" somfs-ctl umount "$scratch/outer"

# The log lies elsewhere, however it is spelled.
mkdir "$scratch/logs"; ln -s "$scratch/outer" "$scratch/detour-in"; ln -s "$scratch/outer/target" "$scratch/logs/leads-in"; ln -s ../outer/no/where "$scratch/logs/leads-nowhere"; touch "$scratch/outer/target"
for log in "$scratch/outer/log" "$scratch/outer/inner/log" "$scratch/outer/no/log" "$scratch/detour-in/log" "$scratch/detour-in/no/log" "$scratch/logs/leads-in" "$scratch/logs/leads-nowhere" "$scratch/logs/leads-nowhere/log" "$scratch/logs/../outer/log"; do
    refused 2 "refusing the log $log: it would lie in $scratch/outer" somfs "$scratch/outer" -o log="$log"
done
refused 2 "refusing the log" sh -c "cd '$scratch/outer' && somfs . -o log=log"
refused 2 "refusing the log" somfs "$scratch/detour-in" -o log="$scratch/outer/log"
refused 2 "refusing the log" somfs "$scratch/outer" "$scratch/at" -o log="$scratch/at/log"
timeout 20 somfs -f "$scratch/outer" 2>"$scratch/outer/errors"; same "standard error in the foreground" "$? $(grep -c "refusing the log" "$scratch/outer/errors")" "2 1"
refused 2 "cannot write the log" somfs "$scratch/outer" -o log="$scratch/file/log"
same "none was made" "$(find "$scratch/outer" -name log; ls -d "$scratch/outer/no" 2>/dev/null)" ""
check "a log elsewhere, by a relative name" sh -c "cd '$scratch/logs' && somfs '$scratch/outer' -o log=log"
[ -e "$scratch/logs/log" ] || same "the log" absent there
check "stops" somfs-ctl umount "$scratch/outer"

# Who stands in the directory is named, not refused: what it makes by relative names goes past the mount.
s=$scratch/stood
mkdir -p "$s/sub"
(cd "$s/sub" && exec sleep 300) & in_it=$!
(exec sleep 300 9<"$s") & holds=$!
started="$started $in_it $holds"
for _ in $(seq 100); do [ "$(cat "/proc/$in_it/comm" "/proc/$holds/comm" | grep -c sleep)" = 2 ] && break; sleep 0.1; done
(cd "$s"; echo "$BASHPID" >"$scratch/shell"; somfs . 2>"$scratch/err"; echo "$?" >"$scratch/code")
same "mounts nevertheless ($(cat "$scratch/err"))" "$(cat "$scratch/code")" 0
same "one line each" "$(wc -l <"$scratch/err")" 3
shell=$(cat "$scratch/shell")
for line in "sleep (pid $in_it) has its working directory in $s:" "sleep (pid $holds) has a directory of $s open:" "bash (pid $shell) has its working directory in $s:"; do
    same "$line" "$(grep -c "^somfs: warning: $line" "$scratch/err")" 1
done
warning() { timeout 20 somfs-ctl status "$s" --json | field volumes.0.warning; }
same "kept for the status, but who has gone" "$(warning | grep -o 'pid [0-9]*' | sort)" "$(printf 'pid %s\n' "$in_it" "$holds" | sort)"
kill "$in_it"; wait "$in_it" 2>/dev/null
same "and again" "$(warning | grep -o 'pid [0-9]*')" "pid $holds"
check "stops" somfs-ctl umount "$s"
kill "$holds"; wait "$holds" 2>/dev/null
many=
for _ in 1 2 3 4 5 6 7; do (cd "$s" && exec sleep 300) & started="$started $!" many="$many /proc/$!/comm"; done
for _ in $(seq 600); do [ "$(cat $many | grep -c sleep)" = 7 ] && break; sleep 0.1; done
check "many" somfs "$s"
same "the first of many" "$(grep -c "^somfs: warning: sleep" "$scratch/err") $(tail -1 "$scratch/err")" "5 somfs: warning: and 2 more processes in $s like these"
check "stops" somfs-ctl umount "$s"

check "mounts" somfs "$d"
same "it is a somfs mount" "$(awk -v d="$d" '$5 == d {for (i = 1; i <= NF; i++) if ($i == "-") print $(i+1)}' /proc/self/mountinfo)" fuse.somfs
refused 11 "already mounted there" somfs "$d"
refused 11 "already mounted there" somfs "$scratch/outer" "$d"
check "shows the tree" treecmp "$scratch/before" "$d"
same ".somfs is not listed" "$(ls -A "$d" | grep -c '^\.somfs$')" 0
check "but reachable" test -d "$d/.somfs/snapshots"

check "snapshot create" somfs-ctl snapshot create "$d" --name first --json
cp "$scratch/out" "$scratch/json"
for k in schema name epoch freeze_ms total_ms writers; do check "field $k" grep -q "\"$k\"" "$scratch/json"; done
same "schema comes first" "$(cut -c1-11 "$scratch/json")" '{"schema":1'
code_is 1 somfs-ctl snapshot create "$d" --name first
code_is 1 somfs-ctl snapshot create "$d" --name ../evil
echo changed >"$d/added"
check "the snapshot still shows the past" treecmp "$scratch/before" "$d/.somfs/snapshots/first"
touch "$d/.somfs/snapshots/first/x" 2>/dev/null; same "read-only" "$?" 1
check "diff" somfs-ctl snapshot diff "$d" first
check "diff names the file" grep -q added "$scratch/out"
check "list" somfs-ctl snapshot list "$d"
check "delete" somfs-ctl snapshot delete "$d" first
# The freezes in the status: of fewer than a hundred the 99th percentile is the longest. Until they were not all alike.
(while :; do echo x >>"$d/added"; dd if=/dev/zero of="$d/zeros" bs=1M count=1 conv=fsync 2>/dev/null; done) &
writes=$!
started="$started $writes"
for i in $(seq 60); do
    check "snapshot under writes" somfs-ctl snapshot create "$d" --name "under-$i" --quiet || break
    check "delete" somfs-ctl snapshot delete "$d" "under-$i" --quiet
    check "status" somfs-ctl status "$d" --json
    python3 -c 'import json,sys; f=json.load(open(sys.argv[1]))["volumes"][0]["freeze_ms"]; sys.exit(f["count"] < 6 or f["max"] < 2 * f["min"])' "$scratch/out" && break
done
kill "$writes"; wait "$writes" 2>/dev/null
rm -f "$d/zeros"
check "percentiles" python3 -c 'import json,sys
f=json.load(open(sys.argv[1]))["volumes"][0]["freeze_ms"]
sys.exit(0 if 6 <= f["count"] < 100 and f["min"] <= f["p50"] <= f["p99"] == f["max"] > f["min"] else f"freeze_ms: {f}")' "$scratch/out"
code_is 1 somfs-ctl snapshot delete "$d" first

check "dry run" somfs-ctl migrate "$d" "$m" --dry-run --json
[ -e "$m/tree" ] && same "a dry run makes nothing" there absent
ln -s "$d" "$scratch/detour"
for inside in "$d" "$d/mirror" "$d/new/deep" "$scratch/detour/mirror" "$scratch" "dir:$d/.somfs"; do code_is 1 somfs-ctl migrate "$d" "$inside"; done
[ -e "$d/mirror" ] && same "no mirror in the volume" there absent
check "full" somfs-ctl migrate "$d" "$m" --json
same "strategy" "$(field strategy <"$scratch/out")" full
cp "$scratch/out" "$scratch/json"
for k in schema strategy snapshot epoch files bytes_source bytes_wire seconds; do check "field $k" grep -q "\"$k\"" "$scratch/json"; done
check "mirror equals" treecmp "$d" "$m/tree" --skip .somfs
echo more >>"$d/added"
check "differential" somfs-ctl migrate "$d" "$m" --json
same "strategy" "$(field strategy <"$scratch/out")" differential
check "mirror equals" treecmp "$d" "$m/tree" --skip .somfs
check "nothing changed" somfs-ctl migrate "$d" "$m" --json
same "nothing sent" "$(field files <"$scratch/out")" 0
check "dir: spelling" somfs-ctl migrate "$d" "dir:$m" --quiet
same "quiet is silent" "$(wc -c <"$scratch/out")$(wc -c <"$scratch/err")" 00
check "when idle" somfs-ctl migrate "$d" "$m" --when-idle --idle 200ms --quiet
# While a writer goes on it waits; it begins when the writer has stopped, and gives up waiting when it is told to.
writes() { while [ ! -e "$scratch/enough" ]; do echo x >>"$d/busy"; sleep 0.1; done; }
writes & writer=$!
started="$started $writer"
for _ in $(seq 100); do [ -e "$d/busy" ] && break; sleep 0.02; done
(somfs-ctl migrate "$d" "$m" --when-idle --idle 1.5s --quiet; echo $? >"$scratch/idle.code") >"$scratch/idle.out" 2>&1 & run=$!
started="$started $run"
sleep 4
same "it waits" "$(cat "$scratch/idle.code" 2>/dev/null)" ""
[ -e "$m/tree/busy" ] && same "before it began" there absent
touch "$scratch/enough"; wait "$writer"
stopped=$(date +%s%N)
wait "$run"
waited=$((($(date +%s%N) - stopped) / 1000000))
same "it went through" "$(cat "$scratch/idle.code")$(cat "$scratch/idle.out")" 0
[ "$waited" -ge 1000 ] || same "it waited for a quiet moment ($waited ms)" no yes
check "what was written until then is there" cmp "$d/busy" "$m/tree/busy"
rm "$scratch/enough"
writes & writer=$!
started="$started $writer"
before=$(date +%s%N)
code_is 0 somfs-ctl migrate "$d" "$m" --when-idle --idle 1h --idle-wait 2
waited=$((($(date +%s%N) - before) / 1000000))
same "it says so" "$(grep -c "was not idle for 2.*; migrating all the same" "$scratch/err")" 1
[ "$waited" -ge 1900 ] || same "it waited as long as it was told ($waited ms)" no yes
touch "$scratch/enough"; wait "$writer"
rm "$d/busy"; check "and goes again" somfs-ctl migrate "$d" "$m" --quiet
check "status" somfs-ctl status "$d" --json
same "mirror known" "$(field volumes.0.mirrors.0.target <"$scratch/out")" "$m"
check "verify" somfs-ctl verify "$d" "$m" --json
same "equal" "$(field equal <"$scratch/out")" true
same "the root was kept on both sides" "$(field root_agrees <"$scratch/out") $(field root <"$scratch/out" | wc -c)" "true 65"
same "each side read the same tree" "$(field source_tree <"$scratch/out")" "$(field mirror_tree <"$scratch/out")"
same "lag" "$(field lag_s <"$scratch/out")" 0.0
root=$(field root <"$scratch/out")
check "status" somfs-ctl status "$d" --json
same "the root in the status" "$(field volumes.0.mirrors.0.root <"$scratch/out")" "$root"
check "verify" somfs-ctl verify "$d" "$m"
cp "$scratch/out" "$scratch/words"
check "the history in words" grep -q "^history: $root, as kept here" "$scratch/words"
check "the tree in words" grep -q "^tree: .* on both sides" "$scratch/words"
cp -a "$m" "$scratch/copied"   # of which nothing was acknowledged here
code_is 6 somfs-ctl verify "$d" "$scratch/copied" --json
same "nothing is claimed of it" "$(field equal <"$scratch/out") $(field root_agrees <"$scratch/out") $(field lag_s <"$scratch/out")" "false null null"
echo "after the copy" >"$d/later"
check "another epoch" somfs-ctl migrate "$d" "$m" --quiet
mv "$m" "$scratch/newer" && mv "$scratch/copied" "$m"
code_is 6 somfs-ctl verify "$d" "$m" --json
same "an older copy is not what was acknowledged" "$(field root_agrees <"$scratch/out")" false
rm -r "$m" && mv "$scratch/newer" "$m"
check "verify" somfs-ctl verify "$d" "$m" --json
same "equal" "$(field equal <"$scratch/out") $(field root_agrees <"$scratch/out")" "true true"
victim=$(find "$m/tree" -type f -size +0 | sort | head -1)
printf X | dd of="$victim" bs=1 conv=notrunc 2>/dev/null
code_is 6 somfs-ctl verify "$d" "$m"
code_is 5 somfs-ctl verify "$d" "$m" --repair
check "equal again" somfs-ctl verify "$d" "$m" --deep
check "mirror equals" treecmp "$d" "$m/tree" --skip .somfs

# A mirror of another volume.
mkdir "$scratch/other"; echo x >"$scratch/other/x"
check "another volume" somfs "$scratch/other"
code_is 10 somfs-ctl migrate "$scratch/other" "$m"
check "mirror untouched" treecmp "$d" "$m/tree" --skip .somfs
check "clean stop" somfs-ctl umount "$scratch/other"
# A directory with other things in it is no mirror.
mkdir "$scratch/busy"; echo precious >"$scratch/busy/file"
somfs-ctl migrate "$d" "$scratch/busy" >/dev/null 2>&1; same "refused" "$(( $? != 0 ))" 1
same "untouched" "$(cat "$scratch/busy/file")$(ls -A "$scratch/busy" | wc -l)" precious1
# A corrupt state is refused and not touched.
cp -a "$m" "$scratch/corrupt"
dd if=/dev/urandom of="$scratch/corrupt/.somfs-mirror/catalog.sqlite" bs=4096 count=2 conv=notrunc 2>/dev/null
rm -f "$scratch/corrupt/.somfs-mirror/catalog.sqlite-wal"
code_is 2 somfs-ctl migrate "$d" "$scratch/corrupt"
# The brake.
mkdir "$d/many"; for i in $(seq 300); do echo "$i" >"$d/many/$i"; done
check "migrate many" somfs-ctl migrate "$d" "$m" --quiet
find "$d" -mindepth 1 -maxdepth 1 ! -name .somfs -exec rm -rf {} +
code_is 8 somfs-ctl migrate "$d" "$m"
same "held: mirror keeps its files" "$(ls "$m/tree/many" | wc -l)" 300
code_is 8 somfs-ctl held list "$m"
check "rejected" somfs-ctl held reject "$m"
code_is 0 somfs-ctl held list "$m"
code_is 8 somfs-ctl migrate "$d" "$m"
check "accepted" somfs-ctl held accept "$m"
same "now gone" "$(ls -A "$m/tree" | wc -l)" 0

# What a person sees of a first copy: a share of all its bytes.
if command -v script >/dev/null; then
    head -c 6000000 /dev/urandom >"$d/big"
    script -qec "somfs-ctl migrate $d $scratch/seen --bwlimit 4M" /dev/null </dev/null 2>&1 | tr '\r' '\n' >"$scratch/screen"
    grep -qE 'sending +[0-9]{1,2}% \[#*\.+\] [0-9]+ files  [0-9.]+ [KM]iB' "$scratch/screen" || same "the bar" "$(grep sending "$scratch/screen" | head -5)" "a share"
    rm "$d/big"
fi

check "doctor" somfs-ctl doctor "$d" --json
check "config check" somfs-ctl config check "$d"
printf '[snapshot]\nreserve = "1%%"\n' >"$scratch/good.conf"
check "config check file" somfs-ctl config check "$scratch/good.conf"
printf '[snapshot]\nresrve = "1%%"\n' >"$scratch/bad.conf"
code_is 2 somfs-ctl config check "$scratch/bad.conf"
pid=$(mount_pid "$d")
check "umount" umount "$d"
check "the process is gone" wait_gone "$pid"
check "clean after" sh -c "! ls $SOMFS_RUN_DIR/*.sock"
# From a working directory that is no longer there.
mkdir "$scratch/gone"
(cd "$scratch/gone" && rmdir "$scratch/gone" && somfs "$d" && somfs-ctl migrate "$d" "$m" --quiet && somfs-ctl umount "$d") >"$scratch/out" 2>&1
same "a working directory that was removed ($(head -1 "$scratch/out"))" $? 0
mkdir "$scratch/gone"
(cd "$scratch/gone" && rmdir "$scratch/gone" && somfs vol) >"$scratch/out" 2>&1
same "a path relative to it" $? 75
same "lines" "$(wc -l <"$scratch/out")" 1
passed
