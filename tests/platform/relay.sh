# SPDX-License-Identifier: Apache-2.0
# A link that breaks on command (tests/tools/relay.py); sourced after lib.sh. What the relay says stands in $scratch/relay.out.
relay=$(cd "$(dirname "${BASH_SOURCE[0]}")/../tools" && pwd)/relay.py
there=() # in front of what runs on the mirror's host, where that is another one
mkfifo "$scratch/relay.in"
exec 7<>"$scratch/relay.in"
start_relay() { # start_relay TO [OPTION...]: its port is in $relay_port
    "${there[@]}" python3 "$relay" --to "$1" "${@:2}" <"$scratch/relay.in" >"$scratch/relay.out" 2>"$scratch/relay.err" 7>&- &
    started="$started $!"
    for _ in $(seq 200); do relay_port=$(sed -n 's/^listening on port //p' "$scratch/relay.out"); [ -n "$relay_port" ] && return; sleep 0.02; done
    echo "FAILED: the relay does not listen"; cat "$scratch/relay.err"; exit 1
}
link() { echo "$*" >&7; }
