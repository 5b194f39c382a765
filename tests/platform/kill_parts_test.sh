#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kill -9 of one part at a time, at random moments: the mirror's program behind a link, the mount during its gap scan, during the
# removal and merging of snapshots and during its unmount, the client while the gate is closed. After each kill and each round the
# mirror is one instant of the writers, the next run goes on, and in the end both sides are equal.
#
#   kill_parts_test.sh      SOMFS_ROUNDS, SOMFS_SEED
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/look.sh"
rounds=${SOMFS_ROUNDS:-10} seed=${SOMFS_SEED:-5}
RANDOM=$seed

# A link that runs what it is told on this machine, and notes which process serves.
cat >"$scratch/ssh" <<EOF2
#!/bin/bash
shift
echo \$\$ >"$scratch/mirrord.pid"
eval "exec \$*"
EOF2
chmod +x "$scratch/ssh"
export SOMFS_SSH=$scratch/ssh SOMFS_REMOTE_MIRRORD=$SOMFS_BIN/somfs-mirrord

d=$scratch/vol m=$disk/mirror link=ssh://backup$disk/mirror
hold=300 # milliseconds the gate may be closed
mkdir -p "$SOMFS_CONFIG_DIR"
printf '[snapshot]\nhold = "%sms"\n' "$hold" >"$SOMFS_CONFIG_DIR/$(echo "${d#/}" | tr / -).conf"
make_tree "$d" --seed "$seed" --files 200 --profile small
check "mounts" somfs "$d"
mkdir "$d/o"
check "first" somfs-ctl migrate "$d" "$link" --quiet

nap() { sleep "$(printf '0.%03d' $((RANDOM % ${1:-600})))"; }
writer=
write_on() { # a fresh history of ordered writers
    rm -rf "$d/o" && mkdir "$d/o"
    oracle write "$d/o" --seconds 60 --procs 3 --seed $((seed * 1000 + $1)) >"$scratch/oracle.log" 2>&1 &
    writer=$!
    started=$writer
    appears "$d/o/oracle"
}
write_off() { kill "$writer" 2>/dev/null; wait "$writer" 2>/dev/null; started=; }
one_instant() { check "round $i, $1: the mirror is one instant" oracle check "$m/tree/o"; }
# A mirror that was left half-way is put right by whoever opens it next.
settle() { check "round $i, $1: the mirror opens" somfs-ctl held list "$m"; }
again() { check "round $i, $1: the run goes on" somfs-ctl migrate "$d" "$link" --quiet --confirm-removal; }
kill_mount() { local pid; pid=$(mount_pid "$d"); kill -9 "$pid"; wait_gone "$pid"; kills=$((kills + 1)); }
churn() { for f in $(seq 30); do head -c $((RANDOM % 20000)) /dev/zero | tr '\0' 'x' >"$d/churn-$f"; done; }

mirrord() {
    local pid run
    write_on "$i"; nap 300
    rm -f "$scratch/mirrord.pid"
    somfs-ctl migrate "$d" "$link" --quiet --confirm-removal >/dev/null 2>"$scratch/err" &
    run=$!
    nap 500
    # A number that was noted may be another process's by now.
    pid=$(cat "$scratch/mirrord.pid" 2>/dev/null)
    [ -n "$pid" ] && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = somfs-mirrord ] && kill -9 "$pid" && kills=$((kills + 1))
    wait "$run"
    look "round $i, mirrord"
    settle mirrord
    again mirrord
    one_instant mirrord
    write_off
}
scan() {
    check "round $i: stops" somfs-ctl umount "$d"
    echo "$i" >"$d/beneath-$i"
    check "round $i: starts" somfs "$d"
    for _ in 1 2; do
        kill_mount
        check "round $i: starts again" somfs "$d"
    done
    write_on "$i"; nap 300
    again scan
    one_instant scan
    write_off
}
snapshots() {
    for s in a b c; do
        check "round $i: snapshot" somfs-ctl snapshot create "$d" --name "$s" --quiet
        rm -rf "$scratch/was-$s"; cp -a "$d" "$scratch/was-$s"
        churn
    done
    somfs-ctl snapshot delete "$d" b >/dev/null 2>&1 &
    local run=$!
    nap 60
    kill_mount
    wait "$run"
    check "round $i: starts" somfs "$d"
    for s in a c; do check "round $i: snapshot $s holds" treecmp "$scratch/was-$s" "$d/.somfs/snapshots/$s"; done
    if [ -d "$d/.somfs/snapshots/b" ]; then
        check "round $i: snapshot b holds" treecmp "$scratch/was-b" "$d/.somfs/snapshots/b"
        check "round $i: goes" somfs-ctl snapshot delete "$d" b
    fi
    check "round $i: snapshot a still holds" treecmp "$scratch/was-a" "$d/.somfs/snapshots/a"
    for s in a c; do check "round $i: goes" somfs-ctl snapshot delete "$d" "$s"; done
}
client() {
    write_on "$i"; nap 300
    somfs-ctl migrate "$d" "$link" --quiet --confirm-removal >/dev/null 2>&1 &
    local run=$! before after
    for _ in $(seq 2000); do
        somfs-ctl status "$d" --json 2>/dev/null | grep -q '"state":"frozen"' && break
        kill -0 "$run" 2>/dev/null || break
    done
    kill -9 "$run" 2>/dev/null && kills=$((kills + 1))
    wait "$run" 2>/dev/null
    look "round $i, client"
    # A writer that waited behind the gate has to go on, whoever asked for the cut.
    before=$(date +%s%N)
    check "round $i: a write goes on" timeout 20 touch "$d/after-the-client-$i"
    after=$(date +%s%N)
    waited=$(((after - before) / 1000000))
    [ "$waited" -gt "$longest" ] && longest=$waited
    same "round $i: the gate is open" "$(somfs-ctl status "$d" --json | field volumes.0.gate.state)" open
    again client
    one_instant client
    write_off
}
unmount() {
    write_on "$i"; nap 200
    local pid; pid=$(mount_pid "$d")
    somfs-ctl migrate "$d" "$link" --quiet --confirm-removal >/dev/null 2>&1 &
    local run=$!
    nap 100
    write_off
    somfs-ctl umount "$d" >/dev/null 2>&1 &
    local stop=$!
    nap 200
    kill -9 "$pid" 2>/dev/null && kills=$((kills + 1))
    wait "$run" "$stop"
    wait_gone "$pid"
    look "round $i, unmount"
    check "round $i: starts" somfs "$d"
    settle unmount
    again unmount
    check "round $i, unmount: equal" treecmp "$d" "$m/tree" --skip .somfs
}

kills=0 longest=0
parts=(mirrord scan snapshots client unmount)
for i in $(seq "$rounds"); do
    "${parts[i % 5]}"
done
check "migrates" somfs-ctl migrate "$d" "$m" --quiet --confirm-removal
check "mirror equals" treecmp "$d" "$m/tree" --skip .somfs
check "verify" somfs-ctl verify "$d" "$m"
check "stops" somfs-ctl umount "$d"
echo "rounds $rounds, kills $kills, looks $looks, seed $seed, $failures failures; the longest wait behind a dead client's gate: $longest ms"
passed
