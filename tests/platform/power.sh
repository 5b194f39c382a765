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
    for _ in $(seq 200); do [ -e "$scratch/device/disk" ] && break; sleep 0.02; done
    # A commit interval of its own would make much durable that nobody asked for, and hide a missing sync.
    case "$1" in ext4 | btrfs) with=loop,commit=300 ;; *) with=loop ;; esac
    mount -o "$with" "$scratch/device/disk" "$disk" || skip "cannot mount $1 here"
}
recorded() { cat "$scratch/device/entries"; }
record_stop() {
    umount "$disk" || failures=$((failures + 1))
    for _ in $(seq 200); do umount "$scratch/device" 2>/dev/null && break; sleep 0.05; done
    wait "$recorder"
    entries=$(recdev list --log "$scratch/log" | wc -l)
}
cut() { # cut K SEED: the image that remains, mounted at $disk
    recdev cut --image "$scratch/base.img" --log "$scratch/log" --at "$1" --seed "$2" --out "$scratch/cut.img" >"$scratch/out" || return 1
    # The image before may still be mounted for a moment in a namespace that is just going, and xfs refuses to see double.
    for _ in $(seq 50); do mount -o loop "$scratch/cut.img" "$disk" 2>"$scratch/mount.err" && return 0; sleep 0.2; done
    cat "$scratch/mount.err"
    return 1
}
uncut() { umount "$disk" && rm -f "$scratch/cut.img"; }
