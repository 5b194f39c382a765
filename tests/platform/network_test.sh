#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A mirror daemon and a source on loopback: keys, pairing by code and by exchanged keys, migration, verification, and whoever is not
# allowed: strangers, volumes that were not granted, used codes, another mirror's key, a wire that flips bits, a daemon that goes.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/relay.sh"

store=$scratch/store d=$scratch/vol
mkdir "$d"
make_tree "$d/tree" --seed 5 --files 200 --profile mixed
daemon() { # starts one; its port is in $port
    somfs-mirrord --listen "127.0.0.1:${1:-0}" --store "$store" "${@:2}" >"$scratch/daemon.out" 2>"$scratch/daemon.log" &
    mirrord=$!
    started="$started $mirrord"
    for _ in $(seq 100); do port=$(sed -n 's/^listening on port //p' "$scratch/daemon.out"); [ -n "$port" ] && return; sleep 0.05; done
    echo "FAILED: the daemon does not listen"; cat "$scratch/daemon.log"; exit 1
}
daemon
target=somfs://127.0.0.1:$port/data
check "mounts" somfs "$d"

echo "- nobody is let in unpaired"
code_is 10 somfs-ctl migrate "$d" "$target"
check "a key" somfs-ctl keygen
code_is 1 somfs-ctl keygen
same "the key's mode" "$(stat -c %a "$SOMFS_CONFIG_DIR/key")" 600
code_is 10 somfs-ctl migrate "$d" "$target"
code_is 1 somfs-ctl pair "/some/where" x
code_is 1 somfs-ctl migrate "$d" "somfs://127.0.0.1/data"
code_is 1 somfs-ctl migrate "$d" "somfs://127.0.0.1:$port/../data"

echo "- pairing by a code, once"
words=$(somfs-mirrord --store "$store" --invite data --comment "the test")
code_is 1 somfs-ctl pair "$target" "${words%?}"
check "pairs" somfs-ctl pair "$target" "$words"
code_is 10 somfs-ctl pair "$target" "$words"
check "the comment is in the list" grep -q "data=.* # the test" "$store/.somfs-mirrord/peers"
same "codes left" "$(cat "$store/.somfs-mirrord/codes")" ""
late=$(somfs-mirrord --store "$store" --invite data --valid 1s)
sleep 2
code_is 10 somfs-ctl pair "$target" "$late"

echo "- migration, verification"
check "migrates" somfs-ctl migrate "$d" "$target" --json
same "strategy" "$(field strategy <"$scratch/out")" full
check "equal" treecmp "$d" "$store/data/tree" --skip .somfs
echo more >"$d/more"; rm -r "$d/tree/$(ls "$d/tree" | head -1)"
check "migrates again" somfs-ctl migrate "$d" "$target" --json
same "strategy" "$(field strategy <"$scratch/out")" differential
check "equal" treecmp "$d" "$store/data/tree" --skip .somfs
check "verifies" somfs-ctl verify "$d" "$target"
echo changed >>"$store/data/tree/more"
code_is 6 somfs-ctl verify "$d" "$target"
code_is 5 somfs-ctl verify "$d" "$target" --repair
check "equal" treecmp "$d" "$store/data/tree" --skip .somfs
check "status" somfs-ctl status "$d" --json
same "target" "$(field volumes.0.mirrors.0.target <"$scratch/out")" "$target"

echo "- every arrangement of the source's stages, every compression"
how=("serial snappy" "fine lz4" "threaded zstd" "hybrid none" "auto zstd")
for one in "${how[@]}"; do
    read -r pipeline compress <<<"$one"
    check "$one" somfs-ctl migrate "$d" "$target" --full --pipeline "$pipeline" --compress "$compress" --json
    eval "wire_$compress=$(field bytes_wire <"$scratch/out")"
done
check "equal" treecmp "$d" "$store/data/tree" --skip .somfs
# shellcheck disable=SC2154
[ "$wire_zstd" -lt "$wire_snappy" ] && [ "$wire_snappy" -lt "$wire_none" ] || same "bytes sent" "$wire_zstd $wire_snappy $wire_none" "fewer with more compression"
code_is 1 somfs-ctl migrate "$d" "$target" --pipeline quick
code_is 1 somfs-ctl migrate "$d" "$target" --compress rar
code_is 1 somfs-ctl replicate "$d" "$target" --pipeline quick
same "not kept" "$(somfs-ctl status "$d" --json | field volumes.0.mirrors.0.pipeline)" "{}"

echo "- a volume that was not granted, a source that is not known, a mirror that is another"
code_is 10 somfs-ctl migrate "$d" "somfs://127.0.0.1:$port/other"
in_log() { # in_log N "words": so many lines of the daemon's log have them
    for _ in $(seq 100); do [ "$(grep -c "$2" "$scratch/daemon.log")" -ge "$1" ] && break; sleep 0.05; done
    same "lines in the log: $2" "$(grep -c "$2" "$scratch/daemon.log")" "$1"
}
in_log 1 "refusing a peer [-A-Z0-9]*: it may not migrate the volume other, that takes the right migrate"
before=$(grep -c "refusing a peer" "$scratch/daemon.log")
[ ! -e "$store/other" ] || same "nothing was made" other ""
(export SOMFS_CONFIG_DIR=$scratch/stranger
 mkdir "$SOMFS_CONFIG_DIR"
 somfs-ctl keygen --quiet && somfs-ctl pair "$target" --key "$(somfs-mirrord --store "$store" --key | head -1)" --json >"$scratch/pair.json")
SOMFS_CONFIG_DIR=$scratch/stranger code_is 10 somfs-ctl migrate "$d" "$target"
in_log $((before + 1)) "refusing a peer"
check "by its key" grep -q "refusing a peer [-A-Z0-9]*: it is not paired with this mirror" "$scratch/daemon.log"
check "its key is allowed" somfs-mirrord --store "$store" --allow "$(field public_key <"$scratch/pair.json")" --volume data
SOMFS_CONFIG_DIR=$scratch/stranger check "then it may" somfs-ctl verify "$d" "$target"
sed -i "s|^\(127.0.0.1:$port \).*|\1$(field public_key <"$scratch/pair.json")|" "$SOMFS_CONFIG_DIR/mirrors"
code_is 10 somfs-ctl migrate "$d" "$target"
check "the right key again" somfs-ctl pair "$target" --key "$(somfs-mirrord --store "$store" --key | head -1)"
check "migrates" somfs-ctl migrate "$d" "$target" --quiet

echo "- what a key may do is told apart, on both sides in one line"
may() { sed -i "s/ data=[a-z,-]*\(.*# the test\)/ data=$1\1/" "$store/.somfs-mirrord/peers"; }
refused() { # refused "what" "the right" command...: with exit 10 and that line, here and in the daemon's log
    before=$(grep -c "may not $1 the volume data, that takes the right $2; " "$scratch/daemon.log")
    code_is 10 "${@:3}"
    grep -q "may not $1 the volume data, that takes the right $2; at the mirror: somfs-mirrord --allow" "$scratch/err" || same "the line" "$(cat "$scratch/err")" "may not $1"
    for _ in $(seq 100); do after=$(grep -c "may not $1 the volume data, that takes the right $2; " "$scratch/daemon.log"); [ "$after" -gt "$before" ] && break; sleep 0.05; done
    [ "$after" -gt "$before" ] || same "in the log" "$(tail -1 "$scratch/daemon.log")" "may not $1"
}
echo more >"$d/told apart"
may migrate
refused replicate push somfs-ctl replicate "$d" "$target"
check "migrates" somfs-ctl migrate "$d" "$target" --quiet
check "verifies" somfs-ctl verify "$d" "$target" --quiet
may push
refused migrate migrate somfs-ctl migrate "$d" "$target"
check "verifies" somfs-ctl verify "$d" "$target" --quiet
echo changed >>"$store/data/tree/more"
refused migrate migrate somfs-ctl verify "$d" "$target" --repair
check "replicates" somfs-ctl replicate "$d" "$target" --quiet
check "syncs" somfs-ctl sync "$d" --quiet
echo yet more >"$d/told apart"
code_is 6 somfs-ctl verify "$d" "$target"
echo more >"$d/more"
check "verifies what is replicated" somfs-ctl verify "$d" "$target" --quiet
check "stops" somfs-ctl replicate "$d" "$target" --stop --quiet
for other in remove read-back; do
    may "$other"
    refused migrate migrate somfs-ctl migrate "$d" "$target"
    refused replicate push somfs-ctl replicate "$d" "$target"
done
check "verifies" somfs-ctl verify "$d" "$target" --quiet
may push,migrate
code_is 1 somfs-mirrord --store "$store" --invite data --rights push,write
check "a right more" somfs-mirrord --store "$store" --allow "$(somfs-ctl keygen --show | head -1)" --volume second --rights push
same "is in the list" "$(grep -c "data=push,migrate second=push # the test" "$store/.somfs-mirrord/peers")" 1

echo "- the brake is the mirror's: a key that may not confirm cannot release it, nor loosen it"
check "unmounts" somfs-ctl umount "$d"
conf=${d#/}
printf '[migrate]\nbrake = 1\n' >"$SOMFS_CONFIG_DIR/${conf//\//-}.conf"
check "mounts" somfs "$d"
make_tree "$d/many" --seed 6 --files 900 --profile small
check "migrates" somfs-ctl migrate "$d" "$target" --quiet
mv "$d/many" "$scratch/many"
code_is 8 somfs-ctl migrate "$d" "$target"
grep -q "objects would be removed; this source may not release the brake, that takes the right confirm at the mirror; look at the mirror, then there: somfs-ctl held accept DIRECTORY" "$scratch/err" || same "why, and what to do" "$(cat "$scratch/err")" "a line"
code_is 8 somfs-ctl migrate "$d" "$target" --confirm-removal
grep -q "waits for a decision: .* at the mirror; at the mirror: somfs-ctl held accept or reject" "$scratch/err" || same "what to do" "$(cat "$scratch/err")" "a line"
check "rejects" somfs-ctl held reject "$store/data"
code_is 8 somfs-ctl migrate "$d" "$target" --confirm-removal
[ -e "$store/data/tree/many" ] || same "the mirror keeps it" gone there
check "rejects" somfs-ctl held reject "$store/data"
kill -TERM "$mirrord"; wait "$mirrord"
printf '[mirrord]\nbrake = 1\n' >"$scratch/mirrord.conf"
daemon "$port" --config "$scratch/mirrord.conf"
check "as the daemon's configuration has it" somfs-ctl migrate "$d" "$target" --quiet
kill -TERM "$mirrord"; wait "$mirrord"
daemon "$port"
cp -a "$scratch/many" "$d/many"
check "migrates" somfs-ctl migrate "$d" "$target" --quiet
rm -r "$d/many"
check "a right more" somfs-mirrord --store "$store" --allow "$(somfs-ctl keygen --show | head -1)" --volume data --rights confirm
check "then it may" somfs-ctl migrate "$d" "$target" --quiet --confirm-removal
check "equal" treecmp "$d" "$store/data/tree" --skip .somfs

echo "- a wire that flips a bit, cuts, or says something else"
start_relay "127.0.0.1:$port"
sed -i "s|^127.0.0.1:$port \\(.*\\)|&\\n127.0.0.1:$relay_port \\1|" "$SOMFS_CONFIG_DIR/mirrors"
through=somfs://127.0.0.1:$relay_port/data
cp -a "$store/data/tree" "$scratch/before"
head -c 300000 /dev/urandom >"$d/new"
for fault in "flip up 700" "flip up 100000" "fin up 50000" "double up 20000"; do
    link go
    link each $fault
    code_is 12 somfs-ctl migrate "$d" "$through"
    check "nothing arrived ($fault)" treecmp "$scratch/before" "$store/data/tree"
done
link go
check "then it does" somfs-ctl migrate "$d" "$through" --quiet
check "equal" treecmp "$d" "$store/data/tree" --skip .somfs

echo "- rubbish, silence and many callers do not disturb the daemon"
python3 - "$port" >"$scratch/callers" <<'PY'
import os, socket, sys
port = int(sys.argv[1])
for what, said in ((b"", "the caller went away without a word"),
                   (b"GET / HTTP/1.0\r\n\r\n", "cannot talk to the other side: it does not greet as somfs does"),
                   (b"somfs-channel 1 link\n" + os.urandom(300), "refusing the other side's handshake"),
                   (b"somfs-channel 2 link\n", "cannot talk to the other side: its channel has version 2, ours 1"),
                   (b"x" * 5000, "what answers is no somfs: its first line is too long"),
                   (b"somfs-channel 1 link\n\xff\xff" + os.urandom(70000), "refusing the other side's handshake: a message is too long"),
                   (b"somfs-channel 1 pair\n\x20\x00" + bytes(32), "refusing the other side: its key is none that can keep a secret")):
    s = socket.create_connection(("127.0.0.1", port))
    print("%s:%d: %s" % (*s.getsockname(), said))
    try:
        s.sendall(what)
        s.shutdown(socket.SHUT_WR)
        while s.recv(1000):
            pass
    except OSError:
        pass
    s.close()
PY
while IFS= read -r line; do
    caller=${line%%: *} why=${line#*: }
    logged() { grep -F "$caller: " "$scratch/daemon.log"; }
    for _ in $(seq 100); do [ -n "$(logged)" ] && break; sleep 0.05; done
    same "lines in the log on $line" "$(logged | wc -l)" 1
    logged | grep -qF "$why" || same "in the log" "$(logged)" "$why"
done <"$scratch/callers"
python3 - "$port" >"$scratch/idle" <<'PY' &
import socket, sys, time
idle = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(20)]
print("here", flush=True)
time.sleep(30)
PY
idle=$!
started="$started $idle"
for _ in $(seq 100); do [ -s "$scratch/idle" ] && break; sleep 0.05; done
check "migrates while twenty say nothing" somfs-ctl migrate "$d" "$target" --quiet
kill "$idle"; wait "$idle" 2>/dev/null
check "the daemon lives" kill -0 "$mirrord"

echo "- what answers has another version, or is something else"
cat >"$scratch/answers.py" <<'PY'
# Answers every caller with the words given, and with nothing more.
import socket, sys
l = socket.create_server(("127.0.0.1", 0))
print(l.getsockname()[1], flush=True)
while True:
    s, _ = l.accept()
    s.recv(1000)
    s.sendall(sys.argv[1].encode() + b"\n")
    s.recv(1000)
    s.close()
PY
for words in "somfs-channel 2 mirror" "SSH-2.0-OpenSSH_9.2"; do
    : >"$scratch/answers"
    python3 "$scratch/answers.py" "$words" >"$scratch/answers" &
    answers=$!
    started="$started $answers"
    for _ in $(seq 100); do [ -s "$scratch/answers" ] && break; sleep 0.05; done
    there=127.0.0.1:$(cat "$scratch/answers")
    sed -i "s|^127.0.0.1:$port \\(.*\\)|&\\n$there \\1|" "$SOMFS_CONFIG_DIR/mirrors"
    why="it does not greet as somfs does"
    [ "$words" = "${words#somfs}" ] || why="its channel has version 2, ours 1"
    says() { code_is 13 "$@"; grep -q "cannot talk to the other side: $why" "$scratch/err" || same "the line" "$(cat "$scratch/err")" "$why"; }
    says somfs-ctl migrate "$d" "somfs://$there/data"
    says somfs-ctl verify "$d" "somfs://$there/data"
    says somfs-ctl replicate "$d" "somfs://$there/data"
    says somfs-ctl pair "somfs://$there/data" "$(somfs-mirrord --store "$store" --invite data)"
    kill "$answers"; wait "$answers" 2>/dev/null
done

echo "- a mirror that somebody still holds for a moment is waited for"
flock "$store/data/.somfs-mirror/lock" sh -c "touch '$scratch/held'; sleep 0.7" &
holder=$!
started="$started $holder"
for _ in $(seq 100); do [ -e "$scratch/held" ] && break; sleep 0.05; done
check "migrates" somfs-ctl migrate "$d" "$target" --quiet
wait "$holder"

echo "- a daemon that is not there, and one that comes back"
kill -TERM "$mirrord"; wait "$mirrord"
same "it ended well" $? 0
code_is 12 somfs-ctl migrate "$d" "$target"
daemon "$port"
check "migrates" somfs-ctl migrate "$d" "$target" --quiet
check "verifies" somfs-ctl verify "$d" "$target"
passed
