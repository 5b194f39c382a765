#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Continuous replication: changes arrive by themselves, one instant after the other, whatever is killed or cut meanwhile; the words and
# numbers of status, sync and lose; pause, resume, stop, a second mirror, a new mount; the brake.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/relay.sh"
rounds=${SOMFS_ROUNDS:-6} seed=${SOMFS_SEED:-5}
RANDOM=$seed

d=$scratch/vol m=$scratch/mirror second=$scratch/second store=$scratch/store
mkdir "$d"
make_tree "$d/tree" --seed "$seed" --files 200 --profile mixed
state_of() { somfs-ctl status "$d" --json | python3 -c 'import json,sys
for m in json.loads(sys.stdin.readline())["volumes"][0]["mirrors"]:
    if m["target"] == sys.argv[1]: print(m[sys.argv[2]])' "$1" "${2:-state}"; }
becomes() { # becomes STATE TARGET: within a minute
    for _ in $(seq 600); do [ "$(state_of "$2")" = "$1" ] && return 0; sleep 0.1; done
    echo "FAILED: $2 is $(state_of "$2"), not $1: $(state_of "$2" reason)"
    failures=$((failures + 1))
    return 1
}
daemon() { # starts one; its port is in $port
    somfs-mirrord --listen "127.0.0.1:${1:-0}" --store "$store" >"$scratch/daemon.out" 2>"$scratch/daemon.log" &
    mirrord=$!
    started="$started $mirrord"
    for _ in $(seq 100); do port=$(sed -n 's/^listening on port //p' "$scratch/daemon.out" 2>/dev/null); [ -n "$port" ] && return; sleep 0.05; done
    echo "FAILED: the daemon does not listen"; cat "$scratch/daemon.log"; exit 1
}

echo "- bad input is told at once, and nothing is kept of it"
code_is 75 somfs-ctl replicate "$d" "$m"
check "mounts" somfs "$d"
code_is 1 somfs-ctl replicate "$d"
code_is 1 somfs-ctl replicate "$d" "$d/inside"
code_is 1 somfs-ctl replicate "$d" "$m" --pacing fast
code_is 1 somfs-ctl replicate "$d" "$m" --mode sometimes
code_is 1 somfs-ctl replicate "$d" "$m" --rpo -1
code_is 1 somfs-ctl replicate "$d" "$m" --share 0
code_is 1 somfs-ctl replicate "$d" "$m" --alpha 2
code_is 1 somfs-ctl replicate "$d" "$m" --first 0
code_is 10 somfs-ctl replicate "$d" somfs://127.0.0.1:9/data
for verb in pause resume sync "replicate --stop"; do code_is 1 somfs-ctl $verb "$d"; done
code_is 1 somfs-ctl lose "$d"
[ ! -e "$d/.somfs/relations" ] || same "nothing is stored" yes no

python3 - "$SOMFS_RUN_DIR"/*.sock <<'PY' || failures=$((failures + 1))
import json, socket, sys
for what in ({"verb": 5}, {"verb": "sync", "timeout": "x"}, {"verb": "replicate", "target": 5}, {"verb": "replicate", "target": "/x", "rpo": None},
             {"verb": "pause", "target": []}, {"verb": "snapshot-create", "name": {}}, {"verb": "source-open", "purpose": 1}, [1], "x", None):
    s = socket.socket(socket.AF_UNIX)
    s.connect(sys.argv[1])
    s.sendall(json.dumps(what).encode() + b"\n")
    s.shutdown(socket.SHUT_WR)
    answer = s.recv(65536)
    if isinstance(what, dict) and (not answer or "error" not in json.loads(answer)):
        sys.exit(f"FAILED: {what} was answered by {answer}")
PY
check "the mount lives" somfs-ctl status "$d"

echo "- changes arrive by themselves"
check "replicates" somfs-ctl replicate "$d" "$m" --json
same "target" "$(field target <"$scratch/out")" "$m"
check "syncs" somfs-ctl sync "$d"
check "equal" treecmp "$d" "$m/tree" --skip .somfs
echo hello >"$d/hello"; rm -r "$d/tree/$(ls "$d/tree" | head -1)"; mv "$d/tree/$(ls "$d/tree" | tail -1)" "$d/moved"
for _ in $(seq 600); do [ -s "$m/tree/hello" ] && break; sleep 0.05; done   # it is made empty, and then filled: two instants
same "it came without being asked for" "$(cat "$m/tree/hello" 2>&1)" hello
check "syncs" somfs-ctl sync "$d" --json
same "said so" "$(field synced <"$scratch/out")" true
check "equal" treecmp "$d" "$m/tree" --skip .somfs
same "state" "$(state_of "$m")" SYNCED
same "lag" "$(state_of "$m" acked_lag_s)" 0.0
check "loses nothing" somfs-ctl lose "$d" --json
same "nothing" "$(field targets.0.files <"$scratch/out") $(field targets.0.at_least <"$scratch/out")" "0 false"
check "verify does not stand in its way" somfs-ctl verify "$d" "$m" --json
same "both sides kept the same root" "$(field equal <"$scratch/out") $(field root_agrees <"$scratch/out")" "true true"
check "a migration neither" somfs-ctl migrate "$d" "$m" --quiet
becomes SYNCED "$m"

echo "- a dirty mapping is part of a sync"
python3 - "$d/mapped" <<'PY'
import mmap, os, subprocess, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 8192)
m = mmap.mmap(fd, 8192)
m[100:106] = b"mapped"
d = os.path.dirname(sys.argv[1])
sys.exit(subprocess.run(["somfs-ctl", "sync", d, "--quiet"]).returncode)
PY
same "mapped" "$(tail -c +101 "$m/tree/mapped" | head -c 6)" mapped

echo "- pause, lose, resume"
check "pauses" somfs-ctl pause "$d"
same "state" "$(state_of "$m")" PAUSED
head -c 100000 /dev/zero >"$d/late"; echo x >>"$d/hello"
code_is 4 somfs-ctl sync "$d"
check "loses" somfs-ctl lose "$d" --json
same "files" "$(field targets.0.files <"$scratch/out")" 3    # late, hello and the directory that holds late
same "bytes" "$(field targets.0.bytes <"$scratch/out")" 100002
check "unmounts" somfs-ctl umount "$d"
check "mounts" somfs "$d"
same "still paused" "$(state_of "$m")" PAUSED
check "resumes" somfs-ctl resume "$d"
check "syncs" somfs-ctl sync "$d"
check "equal" treecmp "$d" "$m/tree" --skip .somfs

echo "- a second mirror, over the network; the one that is away does not hold up the other"
daemon
target=somfs://127.0.0.1:$port/data
code_is 10 somfs-ctl replicate "$d" "$target"
check "pairs" somfs-ctl pair "$target" "$(somfs-mirrord --store "$store" --invite data)"
check "replicates" somfs-ctl replicate "$d" "$target" --pacing paper --rpo 1 --share .25 --alpha .3 --beta .7 --first .05
code_is 1 somfs-ctl replicate "$d" --stop
check "syncs both" somfs-ctl sync "$d"
check "equal" treecmp "$d" "$store/data/tree" --skip .somfs
kill -9 "$mirrord"; wait "$mirrord" 2>/dev/null
becomes DEGRADED "$target"
echo away >"$d/away"
check "the first one" somfs-ctl sync "$d" "$m"
same "has it" "$(cat "$m/tree/away")" away
code_is 12 somfs-ctl sync "$d" "$target" --timeout 1
daemon "$port"
check "the second one, by itself again" somfs-ctl sync "$d" "$target"
check "equal" treecmp "$d" "$store/data/tree" --skip .somfs
becomes SYNCED "$target"

# Text, compressed on its way, over a link that encrypts: every stage has had something to do, and the mirror's got it back as it was.
# All in one group: paused meanwhile. The empty one that a second sync cuts does not hide it.
check "pauses" somfs-ctl pause "$d"
seq 300000 >"$d/text"
check "resumes" somfs-ctl resume "$d"
check "syncs" somfs-ctl sync "$d"
check "syncs" somfs-ctl sync "$d"
somfs-ctl status "$d" --json | python3 -c 'import json,sys
p = next(m for m in json.loads(sys.stdin.readline())["volumes"][0]["mirrors"] if m["target"] == sys.argv[1])["pipeline"]
print([s for s in ("group", "compress", "encrypt", "send", "transfer", "decrypt", "decompress", "write", "acknowledge", "apply") if not p["stages_bytes"][s] or p["stages_s"][s] < 0],
      p["stages_bytes"]["encrypt"] < p["stages_bytes"]["compress"], p["stages_bytes"]["write"] >= p["stages_bytes"]["group"],
      p["pipeline"], p["in_force"]["pipeline"] in ("serial", "fine", "threaded", "hybrid"), p["in_force"]["compress"])' "$target" >"$scratch/out"
same "the stages of the last group" "$(cat "$scratch/out")" "[] True True auto True snappy"

echo "- a wire that flips, cuts and doubles: nothing of it arrives, and it goes on by itself"
check "stops" somfs-ctl replicate "$d" "$target" --stop
start_relay "127.0.0.1:$port"
sed -i "s|^127.0.0.1:$port \\(.*\\)|&\\n127.0.0.1:$relay_port \\1|" "$SOMFS_CONFIG_DIR/mirrors"
through=somfs://127.0.0.1:$relay_port/data
check "replicates" somfs-ctl replicate "$d" "$through"
for fault in "flip up 20000" "fin up 50000" "double up 30000"; do
    check "syncs" somfs-ctl sync "$d" "$through"
    check "pauses" somfs-ctl pause "$d" "$through"
    cp -a "$store/data/tree" "$scratch/before"
    head -c 100000 /dev/urandom >"$d/new"
    link go
    link each $fault
    check "resumes" somfs-ctl resume "$d" "$through"
    becomes DEGRADED "$through"
    check "nothing arrived ($fault)" treecmp "$scratch/before" "$store/data/tree"
    link go
    check "then it does" somfs-ctl sync "$d" "$through"
    check "equal" treecmp "$d" "$store/data/tree" --skip .somfs
    rm -rf "$scratch/before"
done
echo "- a mirror that takes nothing holds up no other one"
link stall up
head -c 3000000 /dev/urandom >"$d/new"
for i in 1 2 3 4 5; do
    echo "$i" >"$d/beside"
    check "the first one, while the other is stalled" somfs-ctl sync "$d" "$m"
    same "has it" "$(cat "$m/tree/beside")" "$i"
done
code_is 4 somfs-ctl sync "$d" "$through" --timeout 1
becomes CATCHING-UP "$through"
link go
check "then it has all as well" somfs-ctl sync "$d" "$through"
check "equal" treecmp "$d" "$store/data/tree" --skip .somfs

echo "- a smaller share of the slowest stage's time: groups are collected for longer"
check "again, with a small share" somfs-ctl replicate "$d" "$through" --stop
check "again, with a small share" somfs-ctl replicate "$d" "$through" --share .01
for i in 1 2 3 4 5 6; do echo "$i" >"$d/beside"; check "syncs" somfs-ctl sync "$d"; done
interval() { somfs-ctl status "$d" --json | python3 -c 'import json,sys
print(next(int(1e6 * m["pipeline"]["interval_s"]) for m in json.loads(sys.stdin.readline())["volumes"][0]["mirrors"] if m["target"] == sys.argv[1]))' "$1"; }
[ "$(interval "$through")" -gt "$(interval "$m")" ] || same "the interval with a share of .01, in µs" "$(interval "$through")" "more than $(interval "$m")"
target=$through

echo "- the brake holds, a person decides"
make_tree "$d/many" --seed "$seed" --files 400 --profile small
check "syncs both" somfs-ctl sync "$d"
rm -rf "$d/many"
becomes HELD "$m"
rm -rf "$d/tree"
code_is 8 somfs-ctl sync "$d" "$m"
[ -e "$m/tree/many" ] || same "the mirror keeps it" gone there
for _ in $(seq 100); do somfs-ctl held accept "$m" >"$scratch/out" 2>"$scratch/err" && break; sleep 0.1; done
same "accepted" "$(cat "$scratch/err")" ""
becomes SYNCED "$m"
check "stops" somfs-ctl replicate "$d" "$target" --stop
check "syncs" somfs-ctl sync "$d"
check "equal" treecmp "$d" "$m/tree" --skip .somfs

echo "- killed at random: one instant whenever it is looked at, and equal in the end"
# The oracle's writers make and remove files as fast as they can: that is no reason to hold anything.
check "unmounts" somfs-ctl umount "$d"
conf=${d#/}
printf '[migrate]\nbrake = 1\n' >"$SOMFS_CONFIG_DIR/${conf//\//-}.conf"
check "mounts" somfs "$d"
# Writers that died with the mount half-way through a step begin a new history in a new place.
write() {
    rm -rf "$d/o"; mkdir "$d/o"
    oracle write "$d/o" --seconds $((rounds * 10 + 60)) --procs 3 --seed $((seed + $1)) >"$scratch/oracle.log" 2>&1 &
    writer=$!
    started="$started $writer"
    appears "$d/o/oracle"
    last=0
}
write 0
check "syncs" somfs-ctl sync "$d"
kills=0
for i in $(seq "$rounds"); do
    sleep "0.$((RANDOM % 1000))"
    case $((RANDOM % 3)) in
    0) somfs-ctl pause "$d" --quiet ;;
    1) check "a stop" somfs-ctl replicate "$d" --stop ;;
    2) pid=$(mount_pid "$d"); kill -9 "$pid"; wait_gone "$pid"; kills=$((kills + 1)) ;;
    esac
    # Whoever opens it recovers it.
    for _ in $(seq 100); do somfs-ctl held list "$m" >"$scratch/out" 2>&1; code=$?; [ $code = 11 ] || break; sleep 0.05; done
    [ $code = 0 ] || { echo "FAILED: the mirror cannot be opened: $(cat "$scratch/out")"; failures=$((failures + 1)); }
    check "round $i: the mirror is one instant" oracle check "$m/tree/o" && n=$(grep -oE '[0-9]+' "$scratch/out" | head -1)
    [ "${n:-0}" -ge "$last" ] || { echo "FAILED: the mirror went back from $last to $n"; failures=$((failures + 1)); }
    last=${n:-0}
    if ! somfs-ctl status "$d" >/dev/null 2>&1; then
        wait "$writer" 2>/dev/null
        check "mounts again" somfs "$d"
        check "lists" somfs-ctl snapshot list "$d"
        same "snapshots of the one that was killed" "$(grep -c "replicate-$pid-" "$scratch/out")" 0
        write "$i"
    fi
    check "goes on" somfs-ctl replicate "$d" "$m" --quiet
    check "syncs" somfs-ctl sync "$d"
done
kill "$writer" 2>/dev/null; wait "$writer" 2>/dev/null
check "syncs" somfs-ctl sync "$d"
check "mirror equals" treecmp "$d" "$m/tree" --skip .somfs
check "verify" somfs-ctl verify "$d" "$m" --json
same "both sides kept the same root" "$(field equal <"$scratch/out") $(field root_agrees <"$scratch/out")" "true true"
check "unmounts" somfs-ctl umount "$d"
echo "rounds $rounds, kills $kills, seed $seed"
passed
