# SPDX-License-Identifier: Apache-2.0
"""A relay between a source and a mirror that breaks the wire. usage: relay.py PORT; prints its own port.

Before each connection it reads the file relay.fault beside its standard output's: `flip N`, `cut N`, `double N` (of the bytes from the
source, at offset N) or `none`.
"""
import os
import socket
import sys
import threading

FAULTS = os.path.join(os.path.dirname(os.readlink("/proc/self/fd/1")), "relay.fault")


def carry(source, target, fault, at):
    seen = 0
    try:
        while data := source.recv(65536):
            inside = 0 <= at - seen < len(data)
            here, seen = at - seen, seen + len(data)
            if fault == "flip" and inside:
                data = data[:here] + bytes([data[here] ^ 1]) + data[here + 1:]
            elif fault == "double" and inside:
                data = data[:here] + data[here:here + 100] + data[here:]
            elif fault == "cut" and inside:
                target.sendall(data[:here])
                break
            target.sendall(data)
    except OSError:
        pass
    for end in (source, target):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def main():
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        near, _ = listener.accept()
        try:
            with open(FAULTS, encoding="ascii") as f:
                fault, _, at = f.read().strip().partition(" ")
        except OSError:
            fault, at = "none", ""
        far = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
        threading.Thread(target=carry, args=(near, far, fault, int(at or -1)), daemon=True).start()
        threading.Thread(target=carry, args=(far, near, "none", -1), daemon=True).start()


main()
