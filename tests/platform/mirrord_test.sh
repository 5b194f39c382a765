#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The processes of the mirror daemon: what a worker is left with, what happens when one is killed, how many callers get one, how they
# end with the daemon; the daemon's life under a service manager, and its configuration.
. "$(dirname "$0")/lib.sh"
here=$(cd "$(dirname "$0")" && pwd)

store=$scratch/store d=$scratch/vol
mkdir "$d"
until_true() { for _ in $(seq 400); do "$@" && return 0; sleep 0.05; done; echo "FAILED: never true: $*"; failures=$((failures + 1)); return 1; }
has_port() { port=$(sed -n 's/^listening on port //p' "$scratch/daemon.out"); [ -n "$port" ]; }
daemon() { # starts one with these arguments; its port is in $port
    : >"$scratch/daemon.out"
    "$@" >"$scratch/daemon.out" 2>>"$scratch/daemon.log" &
    mirrord=$!
    started="$started $mirrord"
    until_true has_port || { cat "$scratch/daemon.log"; exit 1; }
}
workers() { pgrep -P "$mirrord" 2>/dev/null; }
count_is() { [ "$(workers | wc -l)" = "$1" ]; }
status_of() { sed -n "s/^$2:[[:space:]]*//p" "/proc/$1/status" | tr -s '[:space:]' ' ' | sed 's/ $//'; }
daemon somfs-mirrord --listen 127.0.0.1:0 --store "$store"
target=somfs://127.0.0.1:$port/data
check "mounts" somfs "$d"
check "a key" somfs-ctl keygen
check "pairs" somfs-ctl pair "$target" "$(somfs-mirrord --store "$store" --invite data)"
until_true count_is 0
head -c 40000000 /dev/urandom >"$d/large"

echo "- what a worker is left with"
somfs-ctl migrate "$d" "$target" --bwlimit 2M >"$scratch/migrate.out" 2>&1 &
migrate=$!
started="$started $migrate"
talking() { [ "$(ls "/proc/$(workers | head -1)/task" 2>/dev/null | wc -l)" -ge 6 ]; }
until_true talking
worker=$(workers)
nobody=$(id -u somfs 2>/dev/null || echo 65534)
same "its user" "$(status_of "$worker" Uid)" "$nobody $nobody $nobody $nobody"
same "its groups" "$(status_of "$worker" Groups)" ""
for set in CapInh CapPrm CapEff CapBnd CapAmb; do same "its $set" "$(status_of "$worker" $set)" 0000000000000000; done
same "no new privileges" "$(status_of "$worker" NoNewPrivs)" 1
filtered=2
grep -q "system calls of workers are not filtered" "$scratch/daemon.log" && filtered=0
same "filtered" "$(status_of "$worker" Seccomp)" $filtered
same "its limits" "$(awk '/^Max (processes|file size|core file size)/ {print $(NF-1)}' "/proc/$worker/limits" | sort -u | tr '\n' ' ')" "0 "
same "its files" "$(find "/proc/$worker/root/" | wc -l)" 1
same "its descriptors" "$(find "/proc/$worker/fd" -lname '/*' -printf '%l ' | tr -s ' ')" "/dev/null /dev/null "
same "its environment" "$(wc -c <"/proc/$worker/environ")" 0
cat >"$scratch/holds.py" <<'PY'
# Whether the memory of a process holds these bytes.
import re, sys
pid, wanted = sys.argv[1], bytes.fromhex(sys.argv[2])
with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
    for line in maps:
        start, end, mode = re.match(r"(\w+)-(\w+) (\S+)", line).groups()
        start, size = int(start, 16), int(end, 16) - int(start, 16)
        if not mode.startswith("rw") or size > 1 << 30:   # a sanitizer's shadow
            continue
        memory.seek(start)
        if wanted in memory.read(size):
            sys.exit(0)
sys.exit(1)
PY
holds() { python3 "$scratch/holds.py" "$worker" "$1"; }
hex() { od -An -v -tx1 | tr -d ' \n'; }
check "what its memory holds is found" holds "$(printf 'somfs-worker-knows' | head -c 5 | hex)"
key=$(sed 's/^somfs-private-1://' "$store/.somfs-mirrord/key")
same "the key and its checksum" "$(printf %s "$key" | base64 -d | wc -c)" 36
holds "$(printf %s "$key" | base64 -d | head -c 32 | hex)" && same "the mirror's key in a worker" there not
holds "$(printf %s "$key" | hex)" && same "the text of the mirror's key in a worker" there not

echo "- a worker killed while it talks takes its connection with it, nothing else"
kill -KILL "$worker"
wait "$migrate"
same "the migration's exit" $? 12
until_true count_is 0
check "the daemon lives" kill -0 "$mirrord"
until_true grep -q "the worker: ended by signal KILL" "$scratch/daemon.log"
check "migrates" somfs-ctl migrate "$d" "$target" --quiet
check "equal" treecmp "$d" "$store/data/tree" --skip .somfs
check "verifies" somfs-ctl verify "$d" "$target"

echo "- callers that say nothing, or not enough"
cat >"$scratch/callers.py" <<'PY'
import resource, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
port, words = int(sys.argv[1]), sys.argv[2].encode()
callers = []
for _ in range(200):
    s = socket.create_connection(("127.0.0.1", port))
    s.sendall(words)
    callers.append(s)
print("here", flush=True)
time.sleep(60)
PY
turned_away() { [ "$(grep -c "hung up, too many callers" "$scratch/daemon.log")" -ge 336 ]; }   # 200 less 32, twice
for words in "" "somfs-channel 1 link"; do
    : >"$scratch/callers"
    python3 "$scratch/callers.py" "$port" "$words" >"$scratch/callers" 2>/dev/null &
    callers=$!
    started="$started $callers"
    until_true test -s "$scratch/callers"
    if [ -z "$words" ]; then same "processes for silence" "$(workers | wc -l)" 0
    else
        until_true turned_away
        same "processes for 200 callers" "$(workers | wc -l)" 32
        code_is 12 somfs-ctl migrate "$d" "$target"
    fi
    kill "$callers"; wait "$callers" 2>/dev/null
    until_true count_is 0
done
freed() { somfs-ctl verify "$d" "$target" --quiet 2>/dev/null; }
until_true freed

echo "- the daemon's end is its workers' end"
echo more >>"$d/large"
somfs-ctl migrate "$d" "$target" --full --bwlimit 2M >"$scratch/migrate.out" 2>&1 &
migrate=$!
started="$started $migrate"
until_true talking
worker=$(workers)
kill -TERM "$mirrord"; wait "$mirrord"
same "it ended well" $? 0
until_true test ! -e "/proc/$worker"
wait "$migrate"
same "the migration's exit" $? 12
daemon somfs-mirrord --listen "127.0.0.1:$port" --store "$store"
somfs-ctl migrate "$d" "$target" --full --bwlimit 2M >"$scratch/migrate.out" 2>&1 &
migrate=$!
started="$started $migrate"
until_true talking
worker=$(workers)
kill -KILL "$mirrord"; wait "$mirrord" 2>/dev/null
until_true test ! -e "/proc/$worker"
wait "$migrate"
same "the migration's exit" $? 12

echo "- an ordinary user's daemon"
mkdir "$scratch/users" && chown 12345:12345 "$scratch/users" && chmod 755 "$scratch"
as_user() { exec setpriv --reuid 12345 --regid 12345 --clear-groups "$(command -v somfs-mirrord)" --store "$scratch/users/store" "$@"; }
daemon as_user --listen 127.0.0.1:0
theirs=somfs://127.0.0.1:$port/data
check "pairs" somfs-ctl pair "$theirs" "$(as_user --invite data)"
somfs-ctl migrate "$d" "$theirs" --bwlimit 2M >"$scratch/migrate.out" 2>&1 &
migrate=$!
started="$started $migrate"
until_true talking
worker=$(workers)
same "no new privileges" "$(status_of "$worker" NoNewPrivs)" 1
same "filtered" "$(status_of "$worker" Seccomp)" $filtered
kill -TERM "$mirrord"; wait "$mirrord"
wait "$migrate"

echo "- under a service manager"
cat >"$scratch/manager.py" <<'PY'
# Starts the program that is named with a NOTIFY_SOCKET; prints what it is told.
import os, socket, subprocess, sys
name, command = sys.argv[1], sys.argv[2:]
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind("\0" + name[1:] if name[0] == "@" else name)
p = subprocess.Popen(command, env={**os.environ, "NOTIFY_SOCKET": name}, stdout=open(os.environ["OUT"], "w"))
print("pid", p.pid, flush=True)
while True:
    lines = s.recv(4096).decode().split("\n")
    print(*lines, sep="\n", flush=True)
    if "STOPPING=1" in lines:
        sys.exit(p.wait())
PY
for name in "$scratch/notify" "@$scratch/notify"; do
    : >"$scratch/told"
    OUT=$scratch/daemon.out python3 "$scratch/manager.py" "$name" somfs-mirrord --listen 127.0.0.1:0 --store "$store" >"$scratch/told" 2>>"$scratch/daemon.log" &
    manager=$!
    started="$started $manager"
    until_true grep -qx "READY=1" "$scratch/told"
    pid=$(sed -n 's/^pid //p' "$scratch/told")
    started="$started $pid"
    has_port
    check "says where" grep -qx "STATUS=listening on port $port" "$scratch/told"
    kill -TERM "$pid"
    wait "$manager"
    same "its exit" $? 0
    check "says that it ends" grep -qx "STOPPING=1" "$scratch/told"
done

echo "- sockets that are there before it"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
if command -v systemd-socket-activate >/dev/null; then
    activate() { exec systemd-socket-activate -l "127.0.0.1:$port" "$(command -v somfs-mirrord)" --listen 127.0.0.1:1 --store "$store"; }
else
    activate() {
        exec python3 -c 'import os, socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("127.0.0.1", int(sys.argv[1]))); s.listen()
os.dup2(s.fileno(), 3); os.set_inheritable(3, True)
os.execve(sys.argv[2], sys.argv[2:], {**os.environ, "LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})' \
            "$port" "$(command -v somfs-mirrord)" --listen 127.0.0.1:1 --store "$store"
    }
fi
activate >"$scratch/daemon.out" 2>>"$scratch/daemon.log" &
mirrord=$!
started="$started $mirrord"
listens() { ss -Hltn "sport = :$port" | grep -q .; }
until_true listens
sed -i "s|^127.0.0.1:[0-9]* \\(.*\\)|&\\n127.0.0.1:$port \\1|;" "$SOMFS_CONFIG_DIR/mirrors"
check "pairs" somfs-ctl pair "somfs://127.0.0.1:$port/data" --key "$(somfs-mirrord --store "$store" --key | head -1)"
check "a caller starts it" somfs-ctl migrate "$d" "somfs://127.0.0.1:$port/data" --quiet
check "another one" somfs-ctl verify "$d" "somfs://127.0.0.1:$port/data"
same "where it listens" "$(sed -n 's/^listening on port //p' "$scratch/daemon.out")" "$port"
kill -TERM "$mirrord"; wait "$mirrord"
same "its exit" $? 0
code_is 2 env LISTEN_FDS=1 sh -c 'LISTEN_PID=$$; export LISTEN_PID; exec 3</dev/null; exec somfs-mirrord --listen 127.0.0.1:0 --store "$1"' - "$store"

echo "- a configuration"
cat >"$scratch/mirrord.conf" <<CONF
[mirrord]
listen = "127.0.0.1:0"
store = "$store"
log = "$scratch/configured.log"
user = "daemon"
[limits]
connections = 3
handshakes = 2
handshake = "2s"
CONF
daemon somfs-mirrord --config "$scratch/mirrord.conf"
python3 "$scratch/callers.py" "$port" "somfs-channel 1 link" >"$scratch/callers" 2>/dev/null &
callers=$!
started="$started $callers"
until_true count_is 2
same "the user of workers" "$(status_of "$(workers | head -1)" Uid | cut -d' ' -f1)" "$(id -u daemon)"
until_true count_is 0
check "its log" grep -q "hung up, too many callers" "$scratch/configured.log"
kill "$callers"; wait "$callers" 2>/dev/null
kill -TERM "$mirrord"; wait "$mirrord"
check "the store of the configuration" somfs-mirrord --config "$scratch/mirrord.conf" --key
same "the same key" "$(head -1 "$scratch/out")" "$(somfs-mirrord --store "$store" --key | head -1)"
for wrong in 'listen = 3' 'nonsense = "x"' 'user = "no such user"' 'user = "root"' 'brake = 0' 'listen = "nowhere"'; do
    printf '[mirrord]\nstore = "%s"\n%s\n' "$store" "$wrong" >"$scratch/wrong.conf"
    case $wrong in *nowhere*) want=1 ;; *) want=2 ;; esac
    code_is $want timeout 10 somfs-mirrord --config "$scratch/wrong.conf"
done
printf '[limits]\nconnections = 0\n' >"$scratch/wrong.conf"
code_is 2 somfs-mirrord --config "$scratch/wrong.conf" --store "$store"
chmod 666 "$scratch/mirrord.conf"
code_is 2 somfs-mirrord --config "$scratch/mirrord.conf"
code_is 2 somfs-mirrord --config "$scratch/none.conf"
passed
