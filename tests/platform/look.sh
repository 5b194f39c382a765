# SPDX-License-Identifier: Apache-2.0
# Sourced after lib.sh: a mirror of ordered writers on a disk of its own, looked at as it lies. Its file system is frozen and copied at that
# moment, the copy is opened alone, and its tree/o must be one instant: of no earlier history than the last look, and no earlier mutation.
[ -e /dev/loop-control ] || skip "needs loop devices"
disk=$scratch/disk
mkdir "$disk" "$scratch/look"
truncate -s 256M "$scratch/mirror.img"
mkfs.ext4 -q "$scratch/mirror.img" || skip "needs mkfs.ext4"
mount -o loop "$scratch/mirror.img" "$disk" || skip "cannot mount ext4 here"

looks=0 last_history=0 last=0
look() { # look "when": the mirror is $disk/mirror; histories have growing seeds
    local opened=$scratch/look/mirror history n
    fsfreeze -f "$disk" || { same "$1: the mirror's disk freezes" no yes; return; }
    cp --sparse=always "$scratch/mirror.img" "$scratch/look.img"
    fsfreeze -u "$disk"
    mount -o loop "$scratch/look.img" "$scratch/look" || { same "$1: the copy is mounted" no yes; return; }
    # Before its first epoch there is nothing to be seen, and perhaps not a mirror yet.
    if [ "$last_history" != 0 ] || [ -e "$opened/tree/o/oracle" ]; then
        check "$1: the mirror opens alone" somfs-ctl held list "$opened"
        if check "$1: the mirror as it lies is one instant" oracle check "$opened/tree/o"; then
            n=$(grep -oE '[0-9]+' "$scratch/out" | head -1)
            read -r history _ <"$opened/tree/o/oracle"
            [ "$history" -gt "$last_history" ] || { [ "$history" = "$last_history" ] && [ "$n" -ge "$last" ]; } ||
                same "$1: the mirror went back" "$history/$n" "$last_history/$last"
            last_history=$history last=$n
        fi
        looks=$((looks + 1))
    fi
    umount "$scratch/look"
}
