#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A mirror behind ssh: a real sshd on loopback, with keys of the test's own.
. "$(dirname "$0")/lib.sh"
sshd=$(command -v sshd || ls /usr/sbin/sshd 2>/dev/null) || skip "needs sshd (openssh-server)"
[ -d /run/sshd ] || mkdir -p /run/sshd

port=$((20000 + $$ % 20000))
ssh-keygen -q -t ed25519 -N '' -f "$scratch/host"
ssh-keygen -q -t ed25519 -N '' -f "$scratch/user"
cp "$scratch/user.pub" "$scratch/authorized"
cat >"$scratch/sshd.conf" <<CONF
Port $port
ListenAddress 127.0.0.1
HostKey $scratch/host
AuthorizedKeysFile $scratch/authorized
PidFile $scratch/sshd.pid
StrictModes no
UsePAM no
PermitRootLogin yes
CONF
"$sshd" -D -f "$scratch/sshd.conf" -E "$scratch/sshd.log" &
started="$started $!"
export SOMFS_SSH="ssh -p $port -i $scratch/user -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=$scratch/known -o LogLevel=ERROR"
export SOMFS_REMOTE_MIRRORD=$SOMFS_BIN/somfs-mirrord
for _ in $(seq 50); do $SOMFS_SSH root@127.0.0.1 true 2>/dev/null && break; sleep 0.1; done
$SOMFS_SSH root@127.0.0.1 true || skip "sshd does not let root in here: $(tail -1 "$scratch/sshd.log")"

d=$scratch/vol m=$scratch/mirror t=ssh://root@127.0.0.1$scratch/mirror
make_tree "$d" --seed 3 --files 200 --profile odd
check "mounts" somfs "$d"
check "full" somfs-ctl migrate "$d" "$t" --json
same "strategy" "$(field strategy <"$scratch/out")" full
check "equal" treecmp "$d" "$m/tree" --skip .somfs
echo x >"$d/x"
check "differential" somfs-ctl migrate "$d" "$t" --json
same "strategy" "$(field strategy <"$scratch/out")" differential
wire=$(field bytes_wire <"$scratch/out")
[ "$wire" -lt 20000 ] || same "little is sent" "$wire" "less than 20000"
check "verify" somfs-ctl verify "$d" "$t"
head -c 3000000 /dev/urandom >"$d/big"
check "with a limit" somfs-ctl migrate "$d" "$t" --bwlimit 2MiB --json
check "equal" treecmp "$d" "$m/tree" --skip .somfs
SOMFS_REMOTE_MIRRORD=/nonexistent/mirrord somfs-ctl migrate "$d" "$t" >/dev/null 2>&1; same "no program there" "$(( $? != 0 ))" 1
SOMFS_SSH="ssh -p 1 -o BatchMode=yes -o LogLevel=QUIET" somfs-ctl migrate "$d" "$t" >/dev/null 2>&1; same "no link" $? 12
passed
