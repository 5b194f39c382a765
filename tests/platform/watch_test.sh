#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A mirror daemon watches its sources: one that is silent becomes SUSPECT and LOST, however it came to be silent; one that said goodbye does
# not; the hook is run at each change and can hold nobody up; a daemon that is started anew remembers. And a split, over the network.
. "$(dirname "$0")/lib.sh"

d=$scratch/vol store=$scratch/store said=$scratch/said
mkdir "$d"
until_true() { for _ in $(seq 1200); do "$@" && return 0; sleep 0.05; done; echo "FAILED: never true: $*"; failures=$((failures + 1)); return 1; }
has_port() { port=$(sed -n 's/^listening on port //p' "$scratch/daemon.out"); [ -n "$port" ]; }
daemon() { # starts one at port $port with these arguments
    : >"$scratch/daemon.out"
    somfs-mirrord --listen "127.0.0.1:${port:-0}" --store "$store" --suspect-after 5s --lost-after 9s "$@" >"$scratch/daemon.out" 2>>"$scratch/daemon.log" &
    mirrord=$!
    started="$started $mirrord"
    until_true has_port || { cat "$scratch/daemon.log"; exit 1; }
}
cat >"$scratch/hook" <<HOOK
#!/bin/sh
env | grep ^SOMFS_ | sort >"$said.env"
echo "\$SOMFS_VOLUME \$SOMFS_BEFORE \$SOMFS_STATE \$SOMFS_SILENT_S" >>"$said"
HOOK
chmod 755 "$scratch/hook"
: >"$said"
heard=0   # so many lines of what was said have been waited for
hooked() { # hooked "BEFORE AFTER": is said after what was waited for last, perhaps with more behind it
    local at
    at=$(tail -n "+$((heard + 1))" "$said" | cut -d' ' -f1-3 | grep -nx -m 1 "data $1" | cut -d: -f1)
    [ -n "$at" ] && heard=$((heard + at))
}
silence() { sed -n "${heard}p" "$said" | cut -d' ' -f4; }
state() { somfs-ctl status --store "$store" --json | field sources.0.state; }
is() { [ "$(state)" = "$1" ]; }

echo "- bad input"
code_is 1 somfs-mirrord --listen 127.0.0.1:0 --store "$store" --suspect-after 1s
code_is 1 somfs-mirrord --listen 127.0.0.1:0 --store "$store" --suspect-after 1m --lost-after 1m
code_is 1 somfs-mirrord --listen 127.0.0.1:0 --store "$store" --lost-after soon
for hook in hook "$scratch/none" /etc/passwd; do code_is 2 somfs-mirrord --listen 127.0.0.1:0 --store "$store" --hook "$hook"; done
cp "$scratch/hook" "$scratch/anybodys" && chmod 777 "$scratch/anybodys"
code_is 2 somfs-mirrord --listen 127.0.0.1:0 --store "$store" --hook "$scratch/anybodys"
for wrong in 'suspect_after = "1s"' 'lost_after = "5s"' 'hook = 5' 'hook_timeout = "2h"' 'else = 1'; do
    printf '[watch]\n%s\n' "$wrong" >"$scratch/wrong.conf"
    code_is 2 somfs-mirrord --config "$scratch/wrong.conf" --store "$store" --listen 127.0.0.1:0
done
mkdir "$scratch/other"
code_is 2 somfs-ctl status --store "$scratch/other"
code_is 75 somfs-ctl status --store "$scratch/none"
code_is 1 somfs-ctl status "$d" --store "$store"

echo "- idle and alive"
port=
daemon --hook "$scratch/hook"
target=somfs://127.0.0.1:$port/data
check "says that nobody called" somfs-ctl status --store "$store"
check "mounts" somfs "$d"
check "a key" somfs-ctl keygen
check "pairs" somfs-ctl pair "$target" "$(somfs-mirrord --store "$store" --invite data)"
echo one >"$d/file"
check "replicates" somfs-ctl replicate "$d" "$target"
check "syncs" somfs-ctl sync "$d"
until_true hooked "UNWATCHED ALIVE"
same "environment" "$(cut -d= -f1 "$said.env" | tr '\n' ' ')" "SOMFS_BEFORE SOMFS_HEARD SOMFS_HOST SOMFS_SILENT_S SOMFS_STATE SOMFS_STORE SOMFS_VOLUME "
sleep 8
same "it is idle, not silent" "$(state)" ALIVE
same "and nobody thought so" "$(wc -l <"$said")" 1
check "in words" somfs-ctl status --store "$store"
check "in words" grep -q "data.*ALIVE, last heard" "$scratch/out"
check "as an object" somfs-ctl status --store "$store" --json
same "first key" "$(cut -c1-12 "$scratch/out")" '{"schema":1,'
same "watched" "$(field running <"$scratch/out") $(field sources.0.connected <"$scratch/out")" "true true"

echo "- a source that hangs"
source=$(mount_pid "$d")
kill -STOP "$source"
until_true hooked "ALIVE SUSPECT"
check "the mirror is as it was" test "$(cat "$store/data/tree/file")" = one
until_true hooked "SUSPECT LOST"
[ "$(silence)" -ge 9 ] || same "how long" "$(silence)" "9 or more"
kill -CONT "$source"
until_true hooked "LOST ALIVE"
check "it goes on" somfs-ctl sync "$d"

echo "- goodbyes"
check "pauses" somfs-ctl pause "$d"
until_true hooked "ALIVE PAUSED"
check "resumes" somfs-ctl resume "$d"
until_true hooked "PAUSED ALIVE"
check "stops" somfs-ctl replicate "$d" --stop
until_true hooked "ALIVE STOPPED"
check "begins again" somfs-ctl replicate "$d" "$target"
until_true hooked "STOPPED ALIVE"
head -c 60000000 /dev/urandom >"$d/large"   # in the middle of an epoch, most likely
check "unmounts" somfs-ctl umount "$d"
until_true hooked "ALIVE UNMOUNTED"
lines=$(wc -l <"$said")
sleep 10
same "and that was all" "$(wc -l <"$said")" "$lines"

echo "- a source that is killed, and a daemon that is started anew meanwhile"
check "mounts" somfs "$d"
until_true hooked "UNMOUNTED ALIVE"
check "syncs" somfs-ctl sync "$d"
until_true is ALIVE   # that is kept
source=$(mount_pid "$d")
kill -KILL "$source" "$mirrord"; wait "$mirrord" 2>/dev/null
check "what it knew can still be seen" somfs-ctl status --store "$store" --json
same "as such" "$(field running <"$scratch/out") $(field sources.0.state <"$scratch/out")" "false ALIVE"
sleep 7   # longer than it takes to be SUSPECT
since=$SECONDS
daemon --hook "$scratch/hook"
until_true hooked "ALIVE SUSPECT"
[ "$(silence)" -le $((SECONDS - since + 1)) ] || same "the silence counts from its start" "$(silence)" "$((SECONDS - since)) or less"
until_true hooked "SUSPECT LOST"
lines=$(wc -l <"$said")
kill -TERM "$mirrord"; wait "$mirrord"
same "it ended well" $? 0
daemon --hook "$scratch/hook"
sleep 1
same "still lost" "$(state)" LOST
same "and no news" "$(wc -l <"$said")" "$lines"
umount -l "$d"
check "mounts again" somfs "$d"
until_true hooked "LOST ALIVE"

echo "- two daemons, one watches"
: >"$scratch/second.out"
somfs-mirrord --listen 127.0.0.1:0 --store "$store" >"$scratch/second.out" 2>"$scratch/second.log" &
second=$!
started="$started $second"
until_true grep -q "listening" "$scratch/second.out"
check "says so" grep -q "another daemon watches" "$scratch/second.log"
kill -TERM "$second"; wait "$second"
same "still watched" "$(somfs-ctl status --store "$store" --json | field running)" true

echo "- a hook that hangs, and one that fails"
kill -TERM "$mirrord"; wait "$mirrord"
printf '#!/bin/sh\nsleep 600\n' >"$scratch/hangs"
printf '#!/bin/sh\necho no such pager >&2\nexit 3\n' >"$scratch/fails"
chmod 755 "$scratch/hangs" "$scratch/fails"
printf '[watch]\nhook = "%s"\nhook_timeout = "2s"\n' "$scratch/hangs" >"$scratch/watch.conf"
daemon --config "$scratch/watch.conf"
echo "$SECONDS" >"$d/file"; check "the source is back" somfs-ctl sync "$d"   # who is not connected cannot say goodbye
check "pauses" somfs-ctl pause "$d"
until_true grep -q "data, PAUSED: killed, it did not end within 2 s" "$scratch/daemon.log"
check "resumes" somfs-ctl resume "$d"
check "nobody waits for it" timeout 20 somfs-ctl sync "$d"
kill -TERM "$mirrord"; wait "$mirrord"
daemon --hook "$scratch/fails"
echo "$SECONDS" >"$d/file"; check "the source is back" somfs-ctl sync "$d"   # who is not connected cannot say goodbye
check "pauses" somfs-ctl pause "$d"
until_true grep -q "data, PAUSED: exit code 3: no such pager" "$scratch/daemon.log"
check "resumes" somfs-ctl resume "$d"

echo "- a damaged memory"
kill -TERM "$mirrord"; wait "$mirrord"
echo '{"schema":1,"sources":[{"volume":"../../etc","state":"LOST"}]}' >"$store/.somfs-mirrord/watch"
code_is 2 somfs-ctl status --store "$store"
daemon
check "it is told" grep -q "what was known of the sources is forgotten" "$scratch/daemon.log"
known() { [ "$(somfs-ctl status --store "$store" --json | grep -c '"volume":"data"')" = 1 ]; }
until_true known
until_true is ALIVE

echo "- a split"
check "syncs" somfs-ctl sync "$d"
check "unmounts" somfs-ctl umount "$d"
copy=$scratch/copy
cp -a "$d" "$copy"
echo theirs >"$copy/theirs"; echo theirs >"$copy/file"
check "mounts the copy" somfs "$copy"
check "which goes on" somfs-ctl sync "$copy"
same "at the mirror" "$(cat "$store/data/tree/file")" theirs
check "unmounts it" somfs-ctl umount "$copy"
check "mounts the first" somfs "$d"
mirror_is() { [ "$(somfs-ctl status "$1" --json | field volumes.0.mirrors.0.state)" = "$2" ]; }
until_true mirror_is "$d" SPLIT
echo ours >"$d/file"
code_is 8 somfs-ctl sync "$d"
code_is 1 somfs-ctl split resolve "$d" "$target"
code_is 1 somfs-ctl split resolve "$d" "$target" --keep both
code_is 1 somfs-ctl split resolve "$d" "$target" --keep mirror
code_is 10 somfs-ctl split resolve "$d" "$target" --keep source
words=$(sed -n 's/.*run there: somfs-ctl \(split accept\) STORE\/data \([0-9a-f-]*\).*/\1 '"${store//\//\\/}"'\/data \2/p' "$scratch/err")
check "what it says to run" test -n "$words"
code_is 1 somfs-ctl split accept "$store/data" none
code_is 1 somfs-ctl split accept "$target" "${words##* }"
check "the mirror's side accepts" somfs-ctl $words --json
same "said so" "$(field kept <"$scratch/out")" source
code_is 1 somfs-ctl $words
check "the source goes on" somfs-ctl sync "$d"
check "equal" treecmp "$d" "$store/data/tree" --skip .somfs
check "pauses" somfs-ctl pause "$d"   # a mirror is in use while somebody talks to it
check "mounts the copy" somfs "$copy"
until_true mirror_is "$copy" SPLIT
echo "more of theirs" >"$copy/file"
code_is 8 somfs-ctl sync "$copy"
same "which changes nothing" "$(cat "$store/data/tree/file")" ours
check "unmounts it" somfs-ctl umount "$copy"
check "resumes" somfs-ctl resume "$d"
check "verifies" somfs-ctl verify "$d" "$target"

echo "- and with the mirror's directory at hand"
m=$scratch/mirror
check "replicates" somfs-ctl replicate "$d" "$m"
check "syncs" somfs-ctl sync "$d"
check "unmounts" somfs-ctl umount "$d"
rm -rf "$copy"
cp -a "$d" "$copy"
check "mounts the copy" somfs "$copy"
check "which goes on" somfs-ctl sync "$copy" "$m"
check "unmounts it" somfs-ctl umount "$copy"
check "mounts the first" somfs "$d"
echo again >"$d/file"
code_is 8 somfs-ctl sync "$d" "$m"
until_true somfs-ctl split resolve "$d" "$m" --keep source --quiet   # in use while the relation asks it
check "syncs" somfs-ctl sync "$d" "$m"
check "pauses" somfs-ctl pause "$d"
code_is 1 somfs-ctl split resolve "$d" "$m" --keep source
check "equal" treecmp "$d" "$m/tree" --skip .somfs
passed
