# SPDX-License-Identifier: Apache-2.0
# Power cuts for the program tests; sourced after lib.sh. One recorded file system at $disk; images of what a cut left are mounted
# at the same place, so that paths stay as they were.
[ -e /dev/loop-control ] || skip "needs loop devices"
disk=$scratch/disk
mkdir "$disk" "$scratch/device"

fs_size() { case "$1" in ext4) echo 96M ;; xfs) echo 320M ;; btrfs) echo 160M ;; esac; }
record_start() { # record_start FS
    command -v "mkfs.$1" >/dev/null || skip "no mkfs.$1"
    truncate -s "$(fs_size "$1")" "$scratch/base.img"
    "mkfs.$1" -q "$scratch/base.img" || skip "mkfs.$1 failed"
    # The device of a mount outlives this script only until it is unmounted: the recorder ends by itself.
    recdev run --image "$scratch/base.img" --log "$scratch/log" "$scratch/device" &
    recorder=$!
    for _ in $(seq 3000); do [ -e "$scratch/device/disk" ] && break; sleep 0.02; done
    # A commit interval of its own would make much durable that nobody asked for, and hide a missing sync.
    # xfs refuses to see an image twice, and a private mount namespace of anybody's may hold the one before a while longer.
    case "$1" in ext4 | btrfs) with=loop,commit=300 again=loop ;; *) with=loop again=loop,nouuid ;; esac
    mount -o "$with" "$scratch/device/disk" "$disk" || skip "cannot mount $1 here"
}
recorded() { cat "$scratch/device/entries"; }
record_stop() {
    umount "$disk" || failures=$((failures + 1))
    for _ in $(seq 1200); do umount "$scratch/device" 2>/dev/null && break; sleep 0.05; done
    wait "$recorder"
    recdev list --log "$scratch/log" >"$scratch/entries"
    entries=$(wc -l <"$scratch/entries")
}
# any_flush FROM: a random flush after entry FROM. Cut there with nothing unflushed kept, the disk shows a missing sync best.
any_flush() {
    mapfile -t flushes < <(awk -v from="$1" '$1 > from && $2 == "flush" {print $1}' "$scratch/entries")
    at=${flushes[$(((RANDOM * 32768 + RANDOM) % ${#flushes[@]}))]}
}
cut() { # cut K SEED: the image that remains, mounted at $disk
    recdev cut --image "$scratch/base.img" --log "$scratch/log" --at "$1" --seed "$2" --out "$scratch/cut.img" >"$scratch/out" || return 1
    mount -o "$again" "$scratch/cut.img" "$disk"
}
uncut() { umount "$disk" && rm -f "$scratch/cut.img"; }
