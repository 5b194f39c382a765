# SPDX-License-Identifier: Apache-2.0
# Two hosts for a program test; sourced in place of lib.sh, which it brings. The test itself runs on the source's host, "${there[@]}"
# in front of a command runs it on the mirror's. Both are network namespaces without a name, joined by veth: they end with their last process.
[ "$(id -u)" != 0 ] || [ -n "${SOMFS_TEST_HOST:-}" ] || {
    unshare -n true 2>/dev/null || { echo "skipped: needs network namespaces"; exit 77; }
    SOMFS_TEST_HOST=1 exec unshare -n bash "$0" "$@"
}
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$(dirname "${BASH_SOURCE[0]}")/relay.sh"
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
