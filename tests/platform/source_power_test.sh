#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Power cuts of the source. Somfs runs over a recorded disk under a writer of which some data is fsynced or O_SYNC and most is not, and
# migrates meanwhile, so that the mirror holds what the disk may not. After the cut, with another boot id: what was fsynced is there,
# the start is known as a crash, and a migration to the mirror as it was makes it equal: nothing is missed, nothing too much remains.
#
# With `replicate` the mirror follows by itself, and is the more often ahead of what the disk kept: the relation that the volume remembers
# has to notice and to make it equal, without anybody's help.
#
#   source_power_test.sh FS [replicate]      ext4, xfs or btrfs; SOMFS_CUTS random cuts besides one at each acknowledgement, SOMFS_SEED
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/power.sh"
fs=${1:-ext4} how=${2:-migrate} cuts=${SOMFS_CUTS:-16} seed=${SOMFS_SEED:-1} epochs=${SOMFS_EPOCHS:-5}
RANDOM=$seed

cat >"$scratch/writer.py" <<'PY'
import os, random, sys
top, stop, acks, entries, seed = sys.argv[1:6]
r = random.Random(int(seed))
pool, n = [], 0
log = open(acks, "w")
def some(size): return r.randbytes(size)
def put(path, data, flags=0):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644)
    os.write(fd, data)
    return fd
while not os.path.exists(stop):
    n += 1
    what = r.randrange(10)
    path = f"{top}/{n}"
    if what == 0 or len(pool) < 20:         # plain
        os.close(put(path, some(r.randrange(20000)))); pool.append(path)
    elif what == 1:                         # fsynced, and said so
        name = f"{top}/kept-{n}"
        data = some(r.randrange(1, 9000))
        fd = put(name, data)
        os.fsync(fd); os.close(fd)
        d = os.open(top, os.O_RDONLY | os.O_DIRECTORY); os.fsync(d); os.close(d)
        log.write(f"{open(entries).read().strip()} {os.path.basename(name)} {data[:8].hex()} {len(data)}\n"); log.flush()
    elif what == 2:                         # O_SYNC, in place
        fd = os.open(r.choice(pool), os.O_WRONLY | os.O_SYNC); os.pwrite(fd, some(3000), r.randrange(8000)); os.close(fd)
    elif what in (3, 4, 5):                 # in place, not synced, the times put back
        p = r.choice(pool); st = os.stat(p)
        fd = os.open(p, os.O_WRONLY); os.pwrite(fd, some(700), r.randrange(max(1, st.st_size))); os.close(fd)
        if what == 5: os.utime(p, ns=(st.st_atime_ns, st.st_mtime_ns))
    elif what == 6:
        i = r.randrange(len(pool)); os.rename(pool[i], path); pool[i] = path
    elif what == 7:
        os.unlink(pool.pop(r.randrange(len(pool))))
    elif what == 8:                         # save by rename
        p = r.choice(pool); os.close(put(path, open(p, "rb").read() + b"more")); os.rename(path, p)
    else:
        os.mkdir(path); p = pool.pop(r.randrange(len(pool))); os.rename(p, path + "/in"); os.link(path + "/in", path + "-link"); pool.append(path + "/in")
PY

# after_cut: runs in a mount namespace of its own, where the machine has another boot id.
after_cut() {
    local v=$disk/vol m=$scratch/mirrored/mirror strategy code=0 daemon
    cat /proc/sys/kernel/random/uuid >"$scratch/boot_id"
    mount --bind "$scratch/boot_id" /proc/sys/kernel/random/boot_id || return 1
    somfs -f "$v" >"$scratch/somfs.log" 2>&1 &
    daemon=$!
    for _ in $(seq 300); do
        somfs-ctl status "$v" --json >"$scratch/status" 2>/dev/null && break
        kill -0 $daemon 2>/dev/null || break
        sleep 0.1
    done
    same "the start is a crash" "$(field volumes.0.gap_scan.gap <"$scratch/status")" crashed || code=1
    if [ "$how" = replicate ]; then
        check "syncs" somfs-ctl sync "$v" || code=1
        check "equal" treecmp "$v" "$m/tree" --skip .somfs || code=1
        echo again >"$v/again"
        check "goes on" somfs-ctl sync "$v" || code=1
        check "equal again" treecmp "$v" "$m/tree" --skip .somfs || code=1
        check "verify" somfs-ctl verify "$v" "$m" || code=1
    elif check "migrates" somfs-ctl migrate "$v" "$m" --json --confirm-removal; then
        strategy=$(field strategy <"$scratch/out")
        [ "$1" = 0 ] || same "strategy" "$strategy" gap-scan || code=1
        check "equal" treecmp "$v" "$m/tree" --skip .somfs || code=1
        echo again >"$v/again"
        check "goes on" somfs-ctl migrate "$v" "$m" --json || code=1
        same "then by difference" "$(field strategy <"$scratch/out")" differential || code=1
        check "equal again" treecmp "$v" "$m/tree" --skip .somfs || code=1
    else
        code=1
    fi
    check "stops" somfs-ctl umount "$v" || code=1
    wait $daemon
    same "the mount process ends" $? 0 || { code=1; tail -n 5 "$scratch/somfs.log"; }
    return $code
}

mkdir "$scratch/mirrored"
truncate -s 96M "$scratch/mirror.img"
mkfs.ext4 -q "$scratch/mirror.img"
record_start "$fs"
mkdir "$disk/vol"
treegen "$disk/vol" --seed "$seed" --files 30 --profile small
sync -f "$disk"
if [ "$how" = replicate ]; then
    # The writer removes files as it likes: that is no reason to hold anything.
    conf=${disk#/}/vol
    printf '[migrate]\nbrake = 1\n' >"$SOMFS_CONFIG_DIR/${conf//\//-}.conf"
fi
check "mounts" somfs "$disk/vol"
mkdir "$disk/vol/w"
python3 "$scratch/writer.py" "$disk/vol/w" "$scratch/stop" "$scratch/acks" "$scratch/device/entries" "$seed" 2>"$scratch/writer.err" &
writer=$!
started="$started $writer"
acked=(0)
cp --sparse=always "$scratch/mirror.img" "$scratch/mirror-0.img"
if [ "$how" = replicate ]; then
    mount -o loop "$scratch/mirror.img" "$scratch/mirrored"
    check "replicates" somfs-ctl replicate "$disk/vol" "$scratch/mirrored/mirror" --quiet
    check "syncs" somfs-ctl sync "$disk/vol"
fi
for e in $(seq "$epochs"); do
    sleep 0.4
    if [ "$how" = replicate ]; then
        # What the mirror's disk holds at one moment, and how much had come to the source's: not this file's content, which nobody syncs.
        echo "$e" >"$disk/vol/ahead-$e"
        for _ in $(seq 3000); do [ -s "$scratch/mirrored/mirror/tree/ahead-$e" ] && break; sleep 0.01; done
        fsfreeze -f "$scratch/mirrored"
        acked[e]=$(recorded)
        cp --sparse=always "$scratch/mirror.img" "$scratch/mirror-$e.img"
        fsfreeze -u "$scratch/mirrored"
        continue
    fi
    mount -o loop "$scratch/mirror.img" "$scratch/mirrored"
    check "epoch $e" somfs-ctl migrate "$disk/vol" "$scratch/mirrored/mirror" --quiet --confirm-removal
    acked[e]=$(recorded)
    umount "$scratch/mirrored"
    cp --sparse=always "$scratch/mirror.img" "$scratch/mirror-$e.img"
done
sleep 0.6
touch "$scratch/stop"
wait "$writer" || { same "the writer ends well" "$(tail -1 "$scratch/writer.err")" "no error"; }
started=
last=$(recorded)
check "stops" somfs-ctl umount "$disk/vol"
[ "$how" = migrate ] || umount "$scratch/mirrored"
record_stop

judge() { # judge K SEED
    local at=$1 e=0 i
    for i in $(seq "$epochs"); do [ "${acked[i]}" -le "$at" ] && e=$i; done
    cut "$at" "$2" || { same "cut at $at seed $2: mounts" no yes; return; }
    while read -r when name head size; do
        [ "$when" -le "$at" ] || break
        [ "$(stat -c %s "$disk/vol/w/$name" 2>&1)" = "$size" ] && [ "$(head -c 8 "$disk/vol/w/$name" | od -An -v -tx1 | tr -d ' \n')" = "$head" ] && continue
        same "cut at $at seed $2: what was fsynced" "$name" "there whole"
    done <"$scratch/acks"
    cp --sparse=always "$scratch/mirror-$e.img" "$scratch/mirror.img"
    mount -o loop "$scratch/mirror.img" "$scratch/mirrored"
    [ -s "$scratch/mirrored/mirror/tree/ahead-$e" ] && [ ! -s "$disk/vol/ahead-$e" ] && ahead=$((ahead + 1))
    unshare -m --propagation private bash -uc 'failures=0; after_cut "$1"' - "$e" >"$scratch/judged" 2>&1 || { same "cut at $at seed $2 onto mirror $e" failed well; sed 's/^/  /' "$scratch/judged"; }
    umount "$scratch/mirrored"
    uncut
}
export -f after_cut check same field
export scratch disk how
done_cuts=0 ahead=0
for e in $(seq "$epochs"); do judge "${acked[e]}" 0; done_cuts=$((done_cuts + 1)); done
first=${acked[1]}
for i in $(seq "$cuts"); do
    at=$((first + (RANDOM * 32768 + RANDOM) % (last - first + 1)))
    case $((i % 4)) in
    0) s=1 ;;
    1) s=$((RANDOM + 2)) ;;
    *) s=0; any_flush "$first" ;;
    esac
    judge "$at" "$s"
    done_cuts=$((done_cuts + 1))
done
# A migration syncs the source before it cuts: its mirror is ahead only where that is broken.
[ "$how" != replicate ] || [ "$ahead" -gt 0 ] || same "a mirror that is ahead" "never" "now and then"
echo "source on $fs: $done_cuts cuts of $entries entries, the mirror ahead at $ahead, seed $seed, $failures failures"
passed
