#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The units as they are installed: systemd has nothing to say against them, and each of their commands is one that the program takes.
#
#   units_test.sh      the units' directory in SOMFS_UNITS
. "$(dirname "$0")/lib.sh"
: "${SOMFS_UNITS:?the directory of the units}"
command -v systemd-analyze >/dev/null || skip "needs systemd-analyze"

# Their programs where they are now, an instance's directory that is there.
units=$scratch/units d=$scratch/srv
mkdir "$units" "$d"
bin=$(sed -n 's|^ExecStart=\(.*\)/somfs-ctl .*|\1|p' "$SOMFS_UNITS/somfs-migrate@.service")
[ -n "$bin" ] || { same "where the programs are installed" "" "named"; passed; }
for f in "$SOMFS_UNITS"/somfs*.service "$SOMFS_UNITS"/somfs*.timer "$SOMFS_UNITS"/somfs*.socket; do
    [ -e "$f" ] || continue
    sed "s|$bin/|$SOMFS_BIN/|" "$f" >"$units/$(basename "$f")"
done
same "units" "$(ls "$units" | tr '\n' ' ')" "somfs-migrate@.service somfs-migrate@.timer somfs-mirrord.service somfs-mirrord.socket somfs@.service "
# The manuals are not installed where the tests run; the templates are looked at as an instance.
for u in "somfs-migrate@srv.service" "somfs-migrate@srv.timer" "somfs@srv.service" somfs-mirrord.service somfs-mirrord.socket; do
    cp "$units/$(echo "$u" | sed 's/@srv/@/')" "$units/$u" 2>/dev/null
    SYSTEMD_UNIT_PATH="$units:" timeout 60 systemd-analyze verify --man=no "$units/$u" >"$scratch/out" 2>&1
    same "$u: systemd-analyze" "$? $(grep -F somfs "$scratch/out")" "0 "
done

# The commands, up to what would be done.
commands() { sed -n 's/^ExecSt[a-z]*=//p' "$units/$1" | sed "s|%f|$d|g"; }
while read -r program rest; do
    check "$program exists" test -x "$program"
    case $rest in
    migrate*)
        # No target is given: it is the configuration's.
        echo x >"$d/x"
        printf '[migrate]\ntarget = "%s"\n' "$scratch/mirror" >"$scratch/migrate.conf"
        check "mounts" somfs "$d" -o config="$scratch/migrate.conf"
        check "$rest" "$program" $rest
        check "it has migrated" cmp "$d/x" "$scratch/mirror/tree/x"
        check "unmounts" somfs-ctl umount "$d"
        ;;
    *) same "a command that is known here" "$rest" "migrate" ;;
    esac
done < <(commands somfs-migrate@.service)
# The mount's own: the line that starts it and the one that ends it.
commands somfs@.service >"$scratch/mount.lines"
same "lines" "$(wc -l <"$scratch/mount.lines")" 2
while read -r line; do check "$line" $line; done <"$scratch/mount.lines"
same "started and ended" "$(awk -v d="$d" '$5 == d' /proc/self/mountinfo | wc -l)" 0
# The daemon listens where it may, with a store that is the test's.
line=$(commands somfs-mirrord.service | sed "s|/var/lib/somfs|$scratch/store|; s|0\.0\.0\.0:7070|127.0.0.1:0|")
: >"$scratch/daemon.out"
$line >"$scratch/daemon.out" 2>"$scratch/daemon.err" &
started="$started $!"
for _ in $(seq 400); do grep -q '^listening' "$scratch/daemon.out" && break; sleep 0.02; done
check "$line" grep -q '^listening' "$scratch/daemon.out"
passed
