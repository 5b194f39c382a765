#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A mirror whose mirror is mirrored: source → daemon A → daemon B, each killed, and the way between A and B cut, refused and spoilt at random, while
# ordered writers go on. B as it is at any moment, copied and recovered alone, is one past instant of the source and never an older one than before;
# after each round a sync succeeds, B has what A has, and all three are equal. Then: first contact with a mirror that holds much, more missed than is
# kept for B, a person's decisions, a forward that is taken away.
#
#   chain_test.sh      SOMFS_ROUNDS, SOMFS_SEED
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/relay.sh"
rounds=${SOMFS_ROUNDS:-8} seed=${SOMFS_SEED:-3}
RANDOM=$seed
[ -e /dev/loop-control ] || skip "needs loop devices"

d=$scratch/vol disk=$scratch/disk a=$scratch/a b=$scratch/disk/b
mkdir "$d" "$disk" "$scratch/look"
conf=${d#/}
printf '[migrate]\nbrake = 1\n' >"$SOMFS_CONFIG_DIR/${conf//\//-}.conf"
truncate -s 160M "$scratch/b.img"
mkfs.ext4 -q "$scratch/b.img"
mount -o loop "$scratch/b.img" "$disk" || skip "cannot mount ext4 here"
until_true() { for _ in $(seq 500); do "$@" && return 0; sleep 0.05; done; echo "FAILED: never true: $*"; failures=$((failures + 1)); return 1; }
nap() { sleep "$(printf '0.%03d' $((RANDOM % ${1:-700})))"; }
daemon() { # daemon NAME STORE OPTION...: at the port it had
    local name=$1 store=$2 port
    shift 2
    port=$(cat "$scratch/$name.port" 2>/dev/null || echo 0)
    : >"$scratch/$name.out"
    somfs-mirrord --listen "127.0.0.1:$port" --store "$store" "$@" >"$scratch/$name.out" 2>>"$scratch/$name.log" 7>&- &
    eval "$name=$!"
    started="$started $!"
    until_true grep -q '^listening' "$scratch/$name.out" || { cat "$scratch/$name.log"; exit 1; }
    sed -n 's/^listening on port //p' "$scratch/$name.out" >"$scratch/$name.port"
}
end_daemon() { local pid=${!1}; kill "-$2" "$pid"; wait "$pid" 2>/dev/null; eval "$1="; }
start_a() { daemon first "$a" --config "$scratch/a.conf"; }
start_b() { daemon second "$b"; }
forward() { somfs-ctl status --store "$a" --json | field "forwards.0.$1" 2>/dev/null; }
committed() { # committed MIRROR...: the epochs they hold, by their catalogs
    python3 -c 'import sqlite3,sys
for m in sys.argv[1:]: print(*sqlite3.connect("file:"+m+"/.somfs-mirror/catalog.sqlite?mode=ro",uri=True).execute("select value from meta where key in (\"committed\",\"applied\",\"pending\") order by key"))' "$@" 2>/dev/null
}
forwarded() { # forwarded TO: it holds what the first one does
    local all
    all=$(committed "$a/data" "$1") && [ "$(echo "$all" | wc -l)" = 2 ] && [ "$(echo "$all" | sort -u | wc -l)" = 1 ]
}
settle() {
    check "$1: syncs" somfs-ctl sync "$d" --quiet
    until_true forwarded "$b/data" || { somfs-ctl status --store "$a"; somfs-ctl status "$d"; tail -n 5 "$scratch/first.log"; }
    check "$1: the first is equal" treecmp "$d" "$a/data/tree" --skip .somfs
    check "$1: the second is equal" treecmp "$a/data/tree" "$b/data/tree"
}

echo "- bad input"
for wrong in 'volume = "data"' 'target = "/m"' 'volume = "../x"
target = "/m"' 'volume = "data"
target = "/m"
spool = "1"' 'volume = "data"
target = "/m"
brake = 2' 'volume = "data"
target = "/m"
compress = "rar"' 'volume = "data"
target = "/m"
else = 1'; do
    printf '[[forward]]\n%s\n' "$wrong" >"$scratch/wrong.conf"
    code_is 2 somfs-mirrord --config "$scratch/wrong.conf" --store "$a" --listen 127.0.0.1:0
done
printf '[forward]\nvolume = "data"\ntarget = "/m"\n' >"$scratch/wrong.conf"
code_is 2 somfs-mirrord --config "$scratch/wrong.conf" --store "$a" --listen 127.0.0.1:0
for wrong in data data= =/m "data=ftp://x" "data=$a/data" "data=$a/data/tree" "data=$scratch"; do
    code_is 1 somfs-mirrord --store "$a" --listen 127.0.0.1:0 --forward "$wrong"
done
code_is 1 somfs-mirrord --store "$a" --listen 127.0.0.1:0 --forward "data=/m" --forward "data=/m"

echo "- joins up"
start_b
start_relay "127.0.0.1:$(cat "$scratch/second.port")" --seed "$seed"
onward=somfs://127.0.0.1:$relay_port/data
cat >"$scratch/a.conf" <<CONF
[[forward]]
volume = "data"
target = "$onward"
spool = "1MiB"
brake = 1
CONF
check "a key" somfs-ctl keygen
start_a
target=somfs://127.0.0.1:$(cat "$scratch/first.port")/data
check "mounts" somfs "$d"
check "pairs with the first" somfs-ctl pair "$target" "$(somfs-mirrord --store "$a" --invite data --rights push,migrate,confirm)"
check "replicates" somfs-ctl replicate "$d" "$target" --quiet
echo hello >"$d/file"
check "syncs" somfs-ctl sync "$d"
refused() { [ "$(forward state)" = DEGRADED ] && forward reason | grep -q "not paired"; }
until_true refused
check "says so" somfs-ctl status --store "$a"
check "says so" grep -q "to $onward *DEGRADED" "$scratch/out"
check "pairs with the second" somfs-ctl pair "$onward" "$(somfs-mirrord --store "$b" --invite data --rights push,migrate,confirm)"
settle "joined up"
alive() { [ "$(somfs-ctl status --store "$b" --json | field sources.0.state)" = ALIVE ]; }   # it writes down what it knows in its own time
until_true alive

# B alone, as a kill of its daemon at this moment would leave it.
last=0
look() {
    local n
    fsfreeze -f "$disk" || { same "$happened: the disk freezes" no yes; return; }
    cp --sparse=always "$scratch/b.img" "$scratch/look.img"
    fsfreeze -u "$disk"
    mount -o loop "$scratch/look.img" "$scratch/look"
    check "$happened: the second opens alone" somfs-ctl held list "$scratch/look/b/data"
    if check "$happened: the second is one instant" oracle check "$scratch/look/b/data/tree/o"; then
        n=$(grep -oE '[0-9]+' "$scratch/out" | head -1)
        [ "$n" -ge "$last" ] || same "$happened: the second went back" "$n" "$last"
        last=$n
    fi
    umount "$scratch/look"
    looks=$((looks + 1))
}
looks=0 kills=0
kill_first() { end_daemon first KILL; nap; start_a; }
kill_second() { end_daemon second KILL; nap; start_b; }
kill_both() { end_daemon first KILL; end_daemon second KILL; nap 300; start_a; nap 300; start_b; }
stop_first() { end_daemon first TERM; nap 300; start_a; }
second_away() { link refuse; link rst; sleep 1; head -c 1500000 /dev/urandom >"$d/large"; check "away: syncs" somfs-ctl sync "$d" --quiet; nap; look; link go; }
cut() { link rst; nap 300; }
flip() { link flip up $((RANDOM % 20000)); nap; link go; }
stall() { link stall up; nap; link go; }
nothing_kept() { end_daemon first KILL; rm -rf "$a/data/.somfs-mirror/forward"; start_a; }
faults=(kill_first kill_second kill_both second_away stop_first cut flip stall nothing_kept kill_first kill_second)

echo "- while everything breaks"
mkdir "$d/o"
setsid oracle write "$d/o" --seconds 36000 --procs 3 --seed "$seed" --progress "$scratch/progress" >"$scratch/oracle.log" 2>&1 7>&- &
writer=$!
started="$started $writer"
until_true test -s "$scratch/progress"
check "syncs" somfs-ctl sync "$d" --quiet
until_true test -e "$b/data/tree/o/oracle"
for i in $(seq "$rounds"); do
    fault=${faults[$(((i - 1) % ${#faults[@]}))]}
    happened="round $i, $fault"
    nap
    "$fault"
    kills=$((kills + 1))
    look
    nap
    look
    kill -STOP -- "-$writer"
    settle "$happened"
    kill -CONT -- "-$writer"
    echo "$happened: the second was at $last; $(forward epochs) epochs sent on, $(forward comparisons) comparisons since the first one's start"
    [ "$failures" = 0 ] || break
done
kill -9 -- "-$writer"; wait "$writer" 2>/dev/null
echo "- more was missed than is kept"
link refuse; link rst
for i in 1 2 3; do head -c 900000 /dev/urandom >"$d/more$i"; check "syncs" somfs-ctl sync "$d" --quiet; done
kept=$(cat "$a"/data/.somfs-mirror/forward/* | wc -c)
[ "$kept" -le $((1 << 20)) ] || same "kept for the second" "$kept" "1 MiB at most"
sleep 3   # numbers are written every two seconds
before=$(forward comparisons)
link go
settle "after more than is kept"
compared() { [ "$(forward comparisons)" -gt "$before" ]; }
until_true compared

echo "- first contact with a mirror that holds much, in a directory this time; two come after one"
end_daemon first TERM
cat >>"$scratch/a.conf" <<CONF
[[forward]]
volume = "data"
target = "$scratch/c"
CONF
start_a
echo more >>"$d/file"
settle "with a third"
until_true forwarded "$scratch/c"
check "the third is equal" treecmp "$d" "$scratch/c/tree" --skip .somfs
# The second one is away: the third does not wait for it.
link refuse; link rst
echo "and more" >>"$d/file"
check "syncs" somfs-ctl sync "$d" --quiet
until_true forwarded "$scratch/c"
check "the third is equal" treecmp "$d" "$scratch/c/tree" --skip .somfs
link go
settle "with the second again"

echo "- held at the second"
end_daemon first TERM
printf '[[forward]]\nvolume = "data"\ntarget = "%s"\nspool = "64MiB"\n' "$onward" >"$scratch/a.conf"
start_a
mkdir "$d/many"
for i in $(seq 300); do echo "$i" >"$d/many/$i"; done
settle "with many files"
end_daemon first KILL
rm -rf "$a/data/.somfs-mirror/forward"   # so that it is compared, with the forward's own brake
start_a
link refuse; link rst
rm -rf "$d"/[a-np-z]* "$d/o"
echo left >"$d/left"
check "syncs" somfs-ctl sync "$d" --quiet
end_daemon first KILL
rm -rf "$a/data/.somfs-mirror/forward"
start_a
link go
state_is() { [ "$(forward state)" = "$1" ]; }
until_true state_is HELD
check "in words" somfs-ctl status --store "$a"
check "in words" grep -q "HELD" "$scratch/out"
same "the second has all" "$(ls "$b/data/tree/many" | wc -l)" 300
until_true somfs-ctl held accept "$b/data" --quiet
settle "accepted"

echo "- no forward any more"
link rst; link refuse
echo again >"$d/file"
check "syncs" somfs-ctl sync "$d"
end_daemon first TERM
daemon first "$a"
check "it is gone on without" somfs-ctl sync "$d"
echo "once more" >"$d/file"
until_true somfs-ctl sync "$d"
gone() { ! [ -e "$a/data/.somfs-mirror/forward" ]; }
until_true gone
check "unmounts" somfs-ctl umount "$d"
[ "$failures" = 0 ] || { echo "last words:"; tail -n 5 "$scratch/first.log" "$scratch/second.log"; }
echo "rounds $rounds, faults $kills, looks $looks, seed $seed"
passed
