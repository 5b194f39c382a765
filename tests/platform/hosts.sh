# SPDX-License-Identifier: Apache-2.0
# Two hosts for a program test; sourced in place of lib.sh, which it brings. The test itself runs on the source's host, "${there[@]}"
# in front of a command runs it on the mirror's. Both are network namespaces without a name, joined by veth: they end with their last process.
[ "$(id -u)" != 0 ] || [ -n "${SOMFS_TEST_HOST:-}" ] || {
    unshare -n true 2>/dev/null || { echo "skipped: needs network namespaces"; exit 77; }
    SOMFS_TEST_HOST=1 exec unshare -n bash "$0" "$@"
}
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
source_address=10.77.0.1 mirror_address=10.77.0.2

unshare -n sleep infinity &
host=$!
started="$started $host"
for _ in $(seq 200); do [ "$(readlink "/proc/$host/ns/net")" != "$(readlink /proc/self/ns/net)" ] && break; sleep 0.02; done
there=(nsenter "--net=/proc/$host/ns/net" --)
{ ip link add source type veth peer name mirror netns "$host" && ip addr add "$source_address/24" dev source && ip link set source up &&
    ip link set lo up && "${there[@]}" ip addr add "$mirror_address/24" dev mirror && "${there[@]}" ip link set mirror up && "${there[@]}" ip link set lo up; } ||
    skip "needs virtual network devices"
# rate 100mbit: of the link, in both directions
rate() {
    tc qdisc replace dev source root tbf rate "$1" burst 64kb latency 100ms &&
        "${there[@]}" tc qdisc replace dev mirror root tbf rate "$1" burst 64kb latency 100ms
}

# A relay on the mirror's host, which takes commands (tests/tools/relay.py); what it says stands in $scratch/relay.out.
relay=$(cd "$(dirname "${BASH_SOURCE[0]}")/../tools" && pwd)/relay.py
mkfifo "$scratch/relay.in"
exec 7<>"$scratch/relay.in"
start_relay() { # start_relay LISTEN TO [OPTION...]
    "${there[@]}" python3 "$relay" --listen "$1" --to "$2" "${@:3}" <"$scratch/relay.in" >"$scratch/relay.out" 2>"$scratch/relay.err" 7>&- &
    started="$started $!"
    for _ in $(seq 200); do grep -q listening "$scratch/relay.out" && return; sleep 0.02; done
    echo "FAILED: the relay does not listen"; cat "$scratch/relay.err"; exit 1
}
link() { echo "$*" >&7; }
