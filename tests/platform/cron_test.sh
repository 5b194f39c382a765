#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The shipped cron line under the real cron: a bare environment, no terminal, silent on success, one mail on failure, and exit
# code 11 while another run is busy. cron runs in mount, pid and ipc namespaces of its own with private crontabs, /run and mail,
# so that the machine's are untouched and everything ends with the namespace. Jobs are made @reboot jobs: cron starts them at
# once, and no minute is waited for.
#
# usage: SOMFS_BIN_DIR=DIR cron_test.sh SOURCE_ROOT
set -uo pipefail

skip() {
    echo "skipped: $1"
    exit 77
}
source_root=${1:?the root of the sources}
bin=${SOMFS_BIN_DIR:-}

if [ -z "${SOMFS_CRON_TEST_INSIDE:-}" ]; then
    [ "$(id -u)" = 0 ] || skip "namespaces and cron need root"
    for program in somfs somfs-ctl; do
        [ -x "${bin:-/nonexistent}/$program" ] || skip "$program is not built (SOMFS_BIN_DIR=$bin)"
    done
    [ -e /dev/fuse ] || skip "no /dev/fuse"
    [ -x /usr/sbin/cron ] || skip "cron is not installed"
    unshare --mount --pid --fork true 2>/dev/null || skip "namespaces cannot be made here"
    scratch=$(mktemp -d "${TMPDIR:-/tmp}/somfs-cron.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    SOMFS_CRON_TEST_INSIDE=$scratch unshare --mount --pid --ipc --fork --kill-child --mount-proc --propagation private bash "$0" "$@"
    exit $?
fi

scratch=$SOMFS_CRON_TEST_INSIDE
mkdir "$scratch/sbin" "$scratch/volume"
cat >"$scratch/sbin/sendmail" <<STUB
#!/bin/sh
cat >"$scratch/mail.\$\$"
STUB
chmod 755 "$scratch/sbin/sendmail"
: >"$scratch/empty"
mkdir -p /var/spool/cron
for directory in /run /etc/cron.d /var/spool/cron; do
    mount -t tmpfs tmpfs "$directory" || skip "$directory cannot be replaced here"
done
mkdir /var/spool/cron/crontabs
[ ! -e /etc/crontab ] || mount --bind "$scratch/empty" /etc/crontab || skip "/etc/crontab cannot be replaced here"
mount -t overlay -o "lowerdir=$scratch/sbin:/usr/sbin" overlay /usr/sbin 2>/dev/null || skip "no overlay to put a sendmail of ours in place"

failures=0
check() {
    local what=$1
    shift
    if "$@"; then
        echo "ok: $what"
    else
        echo "FAILED: $what"
        failures=$((failures + 1))
    fi
}
mails() { find "$scratch" -maxdepth 1 -name 'mail.*' | wc -l; }
# wait_for COMMAND...: up to a minute
wait_for() {
    local i
    for ((i = 0; i < 600; i++)); do
        "$@" && return 0
        sleep 0.1
    done
    return 1
}

childless() { ! pgrep -P "$1" >/dev/null; }

# crontab_of MIRROR: the shipped file; of its first job only time and directories are replaced, and its exit code is kept.
crontab_of() {
    local mirror=$1
    sed -e "s|^PATH=.*|PATH=$bin:/usr/sbin:/usr/bin:/sbin:/bin|" \
        -e "/^17 /{s|^17 \* \* \* \*|@reboot|;s|/srv/data|$scratch/volume|;s|/backup/data|$mirror|;s|\$|; echo \$? >$scratch/exit|}" \
        "$source_root/packaging/cron.d/somfs"
}

# run_cron FILE: cron with this one file; returns when its jobs are done and their mail is delivered.
run_cron() {
    local pid rc=0
    rm -f "$scratch/exit" "$scratch"/mail.* /run/crond.reboot
    install -m 644 "$1" /etc/cron.d/somfs
    setsid env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin cron -f </dev/null >/dev/null 2>&1 &
    pid=$!
    wait_for test -s "$scratch/exit" || { echo "cron did not run the job within a minute"; rc=1; }
    wait_for childless "$pid" || { echo "the job did not end within a minute"; rc=1; }
    kill "$pid"
    wait "$pid" 2>/dev/null
    return $rc
}

echo "first" >"$scratch/volume/file"
"$bin/somfs" "$scratch/volume" || { echo "FAILED: mount"; exit 1; }

# what cron gives a job
{
    crontab_of "$scratch/mirror"
    echo "@reboot root env >$scratch/env; tty >$scratch/tty; true"
} >"$scratch/crontab"
check "the shipped line is in use" grep -q "^@reboot .*somfs-ctl migrate $scratch/volume $scratch/mirror --quiet;" "$scratch/crontab"
check "a first run under cron" run_cron "$scratch/crontab"
check "it exits 0" test "$(cat "$scratch/exit")" = 0
check "it is silent: no mail" test "$(mails)" = 0
check "the mirror holds the file" cmp -s "$scratch/volume/file" "$scratch/mirror/tree/file"
check "the environment was bare" test "$(grep -cvE '^(HOME|LOGNAME|PATH|SHELL|MAILTO|PWD|SHLVL|_|LANG|LC_[A-Z]*)=' "$scratch/env")" = 0
check "there was no terminal" grep -q 'not a tty' "$scratch/tty"

echo "second" >"$scratch/volume/file"
crontab_of "$scratch/mirror" >"$scratch/crontab"
check "a second run, by difference" run_cron "$scratch/crontab"
check "it exits 0 and is silent" test "$(cat "$scratch/exit") $(mails)" = "0 0"
check "the mirror holds the change" cmp -s "$scratch/volume/file" "$scratch/mirror/tree/file"
check "no snapshot of a run is left" test "$(find "$scratch/volume/.somfs/snapshots" -mindepth 1 -maxdepth 1 2>/dev/null | wc -l)" = 0

# a failure: the target lies beneath a file
: >"$scratch/blocked"
crontab_of "$scratch/blocked/mirror" >"$scratch/crontab"
check "a run that must fail" run_cron "$scratch/crontab"
check "it does not exit 0" test "$(cat "$scratch/exit")" != 0
check "it sends one mail" test "$(mails)" = 1
# Debian 13's cron writes quoted-printable, which breaks long lines.
body() { cat "$scratch"/mail.* | python3 -c 'import email, sys
sys.stdout.buffer.write(email.message_from_binary_file(sys.stdin.buffer).get_payload(decode=True))'; }
check "of one line" test "$(body | grep -c .)" = 1
check "that names the target" grep -q "blocked" <(body)

# overlap: a slow run holds the mirror while cron comes by
head -c 4194304 /dev/urandom >"$scratch/volume/large"
"$bin/somfs-ctl" migrate "$scratch/volume" "$scratch/mirror2" --bwlimit 64K --quiet </dev/null >"$scratch/slow.log" 2>&1 &
slow=$!
check "a slow run begins" wait_for test -d "$scratch/mirror2/.somfs-mirror"
crontab_of "$scratch/mirror2" >"$scratch/crontab"
check "cron comes by meanwhile" run_cron "$scratch/crontab"
check "the slow run is still busy" kill -0 "$slow"
check "cron's exits 11" test "$(cat "$scratch/exit")" = 11
check "and says so in one mail" test "$(mails)" = 1
kill -INT "$slow" 2>/dev/null
# a background job of a shell ignores SIGINT unless it asks for it: end it for certain
kill -TERM "$slow" 2>/dev/null
wait "$slow" 2>/dev/null
check "the next run goes through" run_cron "$scratch/crontab"
check "it exits 0" test "$(cat "$scratch/exit")" = 0
check "the mirror is complete" cmp -s "$scratch/volume/large" "$scratch/mirror2/tree/large"

check "a clean unmount" umount "$scratch/volume"
echo "$failures failures"
[ "$failures" = 0 ]
