#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Continuous replication between two hosts while everything breaks, at random: bits flip on the way, chunks are dropped and doubled, the
# link is cut, stalls or goes dark; mount, daemon and worker are killed, stopped, paused. Ordered writers go on meanwhile.
# After each fault the mirror as it is at that moment, copied and recovered alone, is one past instant of the source and none before the
# last look; then everything is mended, a sync succeeds, both sides are equal and `verify` says so.
#
# Seen to catch: a mirror that swaps two records of data in a group; one that is opened without its redo list being played; frames taken
# though their tag does not fit (a flipped bit in a file, in the fifth flip); a dropped
# chunk for whose rest both sides waited for ever; a `verify` that found the mirror held by the conversation before.
#
#   replicate_chaos_test.sh      SOMFS_ROUNDS, SOMFS_SEED
. "$(dirname "$0")/hosts.sh"
rounds=${SOMFS_ROUNDS:-16} seed=${SOMFS_SEED:-5}
RANDOM=$seed
[ -e /dev/loop-control ] || skip "needs loop devices"

d=$scratch/vol disk=$scratch/disk store=$scratch/disk/store target=somfs://$mirror_address:7071/data
mkdir "$d" "$disk" "$scratch/look"
# The oracle's writers make and remove files as fast as they can: that is no reason to hold anything.
conf=${d#/}
printf '[migrate]\nbrake = 1\n' >"$SOMFS_CONFIG_DIR/${conf//\//-}.conf"
truncate -s 96M "$scratch/mirror.img"
mkfs.ext4 -q "$scratch/mirror.img"
mount -o loop "$scratch/mirror.img" "$disk" || skip "cannot mount ext4 here"
rate 200mbit || echo "(the link has no limit here: no tbf)"
nap() { sleep "$(printf '0.%03d' $((RANDOM % ${1:-700})))"; }

start_daemon() {
    : >"$scratch/daemon.out"
    "${there[@]}" somfs-mirrord --listen 127.0.0.1:7070 --store "$store" >"$scratch/daemon.out" 2>>"$scratch/daemon.log" 7>&- &
    mirrord=$!
    started="$started $mirrord"
    for _ in $(seq 200); do grep -q '^listening' "$scratch/daemon.out" && return; sleep 0.02; done
    echo "FAILED: the daemon does not listen"; cat "$scratch/daemon.log"; exit 1
}
end_daemon() { # end_daemon SIGNAL
    kill "-$1" "$mirrord"
    wait "$mirrord" 2>/dev/null
    mirrord=
}

# Writers that end with the mount leave a whole history; the next one is in another place. The one before goes when the mirror has this one.
history=0
begin_history() {
    history=$((history + 1))
    mkdir "$d/o$history"
    setsid oracle write "$d/o$history" --seconds 36000 --procs 3 --seed $((seed + history)) --progress "$scratch/progress$history" >"$scratch/oracle.log" 2>&1 7>&- &
    writer=$!
    started="$started $writer"
    appears "$scratch/progress$history" || { cat "$scratch/oracle.log"; exit 1; }
}
end_history() {
    kill -9 -- "-$writer" 2>/dev/null
    wait "$writer" 2>/dev/null
    writer=
}
progress() { local p; p=$(head -c 64 "$scratch/progress$1" | grep -oE '[0-9]+' | head -1); echo "$((10#${p:-0}))"; }

# The mirror alone, as a kill of the daemon at this moment would leave it: a frozen file system copied, opened there, and looked at.
last=0 last_history=0
look() {
    local opened n k
    fsfreeze -f "$disk" || { same "round $i: the mirror's disk freezes" no yes; return; }
    cp --sparse=always "$scratch/mirror.img" "$scratch/look.img"
    fsfreeze -u "$disk"
    mount -o loop "$scratch/look.img" "$scratch/look"
    opened=$scratch/look/store/data
    check "round $i ($happened): the mirror opens alone" somfs-ctl held list "$opened"
    k=$history
    while [ "$k" -gt 1 ] && [ ! -e "$opened/tree/o$k/oracle" ]; do k=$((k - 1)); done
    if check "round $i ($happened): the mirror is one instant" oracle check "$opened/tree/o$k"; then
        n=$(grep -oE '[0-9]+' "$scratch/out" | head -1)
        # A mutation may be there before its writer could say so.
        [ "$n" -le $(($(progress $k) + 1)) ] || { same "round $i ($happened): the mirror's instant" "$k/$n" "in the past, $k/$(progress $k)"; }
        [ "$k" -gt "$last_history" ] || { [ "$k" = "$last_history" ] && [ "$n" -ge "$last" ]; } ||
            same "round $i ($happened): the mirror went back" "$k/$n" "$last_history/$last"
        last_history=$k last=$n
    fi
    umount "$scratch/look"
    looks=$((looks + 1))
}

# Faults. Each counts itself when it was really made.
kills=0 looks=0
paused= stopped= dropped=
declare -A made
count() { happened="${happened:+$happened, }$1"; made[${2:-$1}]=$((${made[${2:-$1}]:-0} + 1)); kills=$((kills + 1)); }
said() { wc -l <"$scratch/relay.out"; }
on_the_way() { # on_the_way KIND: in a direction and after some bytes, when the writers' bytes come by
    local way=up after before
    after=$((RANDOM % 20000))
    [ $((RANDOM % 3)) = 0 ] && way=down after=$((RANDOM % 300))
    before=$(said)
    link "$1" $way "$after"
    for _ in $(seq 1000); do [ "$(said)" -gt "$before" ] && { count "$(tail -n 1 "$scratch/relay.out" | cut -d' ' -f1-5)" "$1"; return; }; sleep 0.02; done
    same "round $i: $1 $way $after" "did not happen" "happened"
}
flip() { on_the_way flip; }
drop() { on_the_way drop; dropped=1; }
double() { on_the_way double; }
cut_in_order() { on_the_way fin; }
cut_by_reset() { on_the_way rst; }
cut_now() { link rst; link refuse; count "cut"; nap 300; }
stall() { local way=up; [ $((RANDOM % 2)) = 0 ] && way=down; link stall $way; count "stall $way" stall; nap 900; }
dark() { ip link set source down; count "dark"; nap 900; }
kill_mount() {
    local pid; pid=$(mount_pid "$d")
    kill -9 "$pid"; wait_gone "$pid"
    count "kill of the mount"
    end_history
}
kill_daemon() { end_daemon KILL; count "kill of the daemon"; }
stop_daemon() { end_daemon TERM; count "stop of the daemon"; }
kill_worker() {
    local pid
    for _ in $(seq 100); do pid=$(pgrep -P "$mirrord" | head -1); [ -n "$pid" ] && break; sleep 0.02; done
    [ -n "$pid" ] && kill -9 "$pid" 2>/dev/null && count "kill of a worker"
}
pause() { check "round $i: pauses" somfs-ctl pause "$d" --quiet; paused=1; count "pause"; }
stop() { check "round $i: stops" somfs-ctl replicate "$d" --stop; stopped=1; count "end of the relation"; }
unmount() { end_history; check "round $i: unmounts" somfs-ctl umount "$d"; count "unmount"; }
on_the_link=(flip drop double cut_in_order cut_by_reset)
elsewhere=(cut_now stall dark kill_mount kill_mount kill_daemon kill_daemon stop_daemon kill_worker pause stop unmount)

mend() {
    ip link set source up
    link go
    # What is missing in a frame is waited for, half a minute: no need to.
    [ -z "$dropped" ] || link rst
    [ -n "$mirrord" ] || start_daemon
    [ -n "$writer" ] || { check "round $i: mounts" somfs "$d"; begin_history; }
    [ -z "$paused" ] || check "round $i: resumes" somfs-ctl resume "$d" --quiet
    [ -z "$stopped" ] || check "round $i: replicates" somfs-ctl replicate "$d" "$target" --quiet
    paused= stopped= dropped=
}
settle() { # while the writers run, and while they are held
    check "round $i ($happened): syncs" somfs-ctl sync "$d" --quiet
    local k
    for k in $(seq $((history - 1))); do rm -rf "$d/o$k"; done
    kill -STOP -- "-$writer"
    check "round $i ($happened): syncs at rest" somfs-ctl sync "$d" --quiet
    check "round $i ($happened): equal" treecmp "$d" "$store/data/tree" --skip .somfs
    check "round $i ($happened): verify" somfs-ctl verify "$d" "$target"
    kill -CONT -- "-$writer"
}

make_tree "$d/tree" --seed "$seed" --files 100 --profile small
start_daemon
start_relay 127.0.0.1:7070 --listen "$mirror_address:7071" --delay 2 --seed "$seed"
check "mounts" somfs "$d"
check "a key" somfs-ctl keygen
check "pairs" somfs-ctl pair "$target" "$(somfs-mirrord --store "$store" --invite data --rights push,migrate,confirm)"
begin_history
check "replicates" somfs-ctl replicate "$d" "$target" --quiet
i=0 happened=start
settle
for i in $(seq "$rounds"); do
    happened=
    nap
    [ $((RANDOM % 2)) = 0 ] || { "${on_the_link[RANDOM % ${#on_the_link[@]}]}"; look; nap 200; }
    "${elsewhere[RANDOM % ${#elsewhere[@]}]}"
    look
    mend
    # Half-way through what was missed
    [ $((RANDOM % 3)) != 0 ] || { nap 300; look; }
    settle
    echo "round $i: $happened; the mirror was at $last_history/$last"
    [ "$failures" = 0 ] || break
done
end_history
check "syncs" somfs-ctl sync "$d"
check "equal" treecmp "$d" "$store/data/tree" --skip .somfs
check "unmounts" somfs-ctl umount "$d"
[ "$failures" = 0 ] || { echo "the daemon's last words:"; tail -n 5 "$scratch/daemon.log"; }
for k in "${!made[@]}"; do echo "$k: ${made[$k]}"; done | sort
echo "rounds $rounds, kills $kills, looks $looks, seed $seed"
passed
