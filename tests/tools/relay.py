#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A relay between two hosts: a bad link, on command.

usage: relay.py --to HOST:PORT [--listen HOST:PORT] [--delay MS] [--window BYTES] [--seed N]

Prints `listening on port N`, and a line for each fault at the moment it happens. Commands are lines on standard input, whose end ends the
relay. WAY is `up` (from whoever connects) or `down`.

  flip WAY [N]      one bit of the byte that comes after N more (without N: some) on any connection
  drop WAY [N]      up to 2000 bytes from there on are missing
  double WAY [N]    up to 2000 bytes from there on come twice
  fin WAY [N]       the connection ends there, in order
  rst WAY [N]       the connection ends there, with a reset
  each FAULT WAY N  the same on each connection that begins from now on, counted from its first byte
  fin, rst          all connections, now; what is under way in here is lost
  stall WAY         nothing is read any more: the sender's window fills
  refuse            whoever connects is sent away
  delay MS          what comes from now on is passed on so much later
  say WORDS         prints them: everything before has been obeyed
  go                no stall, no refusal, no fault that has not happened yet
"""
import argparse
import collections
import os
import random
import select
import socket
import struct
import sys
import time

CHUNK = 65536
AT_POINT = ("flip", "drop", "double", "fin", "rst")
WAYS = ("up", "down")


class Fault:
    def __init__(self, kind, way, left):
        self.kind, self.way, self.left = kind, way, left


class Way:
    """One direction of a connection."""

    def __init__(self, name, source, target):
        self.name, self.source, self.target = name, source, target
        self.queue, self.queued = collections.deque(), 0    # (due, bytes); no bytes: the source has ended
        self.faults, self.seen = [], 0
        self.ended = self.passed_end = False


class Connection:
    def __init__(self, number, near, far):
        self.number, self.sockets = number, (near, far)
        self.ways = (Way("up", near, far), Way("down", far, near))


class Relay:
    def __init__(self, options):
        self.to, self.delay, self.window = address(options.to), options.delay / 1000, options.window
        self.random = random.Random(options.seed)
        self.listener = socket.create_server(address(options.listen))
        self.connections, self.count = [], 0
        self.armed, self.each, self.stalled, self.refusing = [], [], set(), False
        self.words = b""
        print("listening on port", self.listener.getsockname()[1], flush=True)

    def run(self):
        while True:
            now = time.monotonic()
            reading, writing, due = {0: None, self.listener: None}, {}, []
            for c in self.connections:
                for way in c.ways:
                    if not way.ended and way.name not in self.stalled and way.queued < self.window:
                        reading[way.source] = (c, way)
                    if way.queue and way.queue[0][0] <= now:
                        writing[way.target] = (c, way)
                    elif way.queue:
                        due.append(way.queue[0][0])
            ready = select.select(list(reading), list(writing), [], max(0, min(due) - now) if due else None)
            # Commands first: one that was given before somebody connected counts for that connection.
            if 0 in ready[0] and not self.obey():
                return
            if self.listener in ready[0]:
                self.accept()
            for s in ready[1]:
                self.step(self.write, *writing[s])
            for s in ready[0]:
                if reading[s]:
                    self.step(self.read, *reading[s])

    def step(self, what, connection, way):
        if connection not in self.connections:
            return
        try:
            what(connection, way)
        except BlockingIOError:
            pass
        except OSError:
            self.end(connection, reset=True)

    def accept(self):
        near, _ = self.listener.accept()
        far = None
        if not self.refusing:
            try:
                far = socket.create_connection(self.to, timeout=5)
            except OSError:
                pass
        if far is None:
            close(near, reset=True)
            return
        for s in (near, far):
            s.setblocking(False)
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A reset that was lost on the way is not sent again: without these the other side would never hear of it.
            s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 10)):
                s.setsockopt(socket.IPPROTO_TCP, option, value)
        self.count += 1
        connection = Connection(self.count, near, far)
        for way in connection.ways:
            way.faults = [Fault(f.kind, f.way, f.left) for f in self.each if f.way == way.name]
        self.connections.append(connection)

    def read(self, connection, way):
        data = way.source.recv(CHUNK)
        if not data:
            way.ended = True
            way.queue.append((time.monotonic() + self.delay, b""))
            return
        came, cut = len(data), None
        for faults in (way.faults, self.armed):
            for fault in [f for f in faults if f.way == way.name]:
                if fault.left >= len(data):
                    fault.left -= came
                    continue
                faults.remove(fault)
                print(fault.kind, way.name, "at byte", way.seen + fault.left, "of connection", connection.number, flush=True)
                data, cut = self.damage(fault, data)
                if cut:
                    break
            if cut:
                break
        way.seen += came
        if data:
            way.queue.append((time.monotonic() + self.delay, data))
            way.queued += len(data)
        if cut:
            # What came before the point arrives, if there is room for it.
            try:
                for _, waiting in way.queue:
                    way.target.send(waiting)
            except OSError:
                pass
            self.end(connection, reset=cut == "rst")

    def damage(self, fault, data):
        """The data as the fault leaves it, and how the connection is cut."""
        at = fault.left
        if fault.kind == "flip":
            return data[:at] + bytes([data[at] ^ 1 << self.random.randrange(8)]) + data[at + 1:], None
        end = at + self.random.randint(1, 2000)
        if fault.kind == "drop":
            return data[:at] + data[end:], None
        if fault.kind == "double":
            return data[:end] + data[at:], None
        return data[:at], fault.kind

    def write(self, connection, way):
        due, data = way.queue.popleft()
        if not data:
            way.target.shutdown(socket.SHUT_WR)
            way.passed_end = True
            if all(w.passed_end for w in connection.ways):
                self.end(connection, reset=False)
            return
        try:
            sent = way.target.send(data)
        except BlockingIOError:
            sent = 0
        way.queued -= sent
        if sent < len(data):
            way.queue.appendleft((due, data[sent:]))

    def end(self, connection, reset):
        self.connections.remove(connection)
        for s in connection.sockets:
            close(s, reset)

    def obey(self):
        came = os.read(0, CHUNK)
        *lines, self.words = (self.words + came).split(b"\n")
        for line in lines:
            if line.strip():
                self.command(line.decode().split())
        return bool(came)

    def command(self, words):
        kind, *more = words
        if kind == "each" and len(more) == 3 and more[0] in AT_POINT and more[1] in WAYS:
            self.each.append(Fault(more[0], more[1], int(more[2])))
        elif kind in AT_POINT and more and more[0] in WAYS:
            self.armed.append(Fault(kind, more[0], int(more[1]) if more[1:] else self.random.randrange(4000)))
        elif kind in ("fin", "rst") and not more:
            for c in list(self.connections):
                print(kind, "of connection", c.number, flush=True)
                self.end(c, reset=kind == "rst")
        elif kind == "stall" and more and more[0] in WAYS:
            self.stalled.add(more[0])
        elif kind == "refuse":
            self.refusing = True
        elif kind == "delay":
            self.delay = float(more[0]) / 1000
        elif kind == "say":
            print(*more, flush=True)
        elif kind == "go":
            self.armed, self.each, self.stalled, self.refusing = [], [], set(), False
        else:
            sys.exit("relay: not a command: " + " ".join(words))


def close(s, reset):
    if reset:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    else:
        try:
            s.shutdown(socket.SHUT_RDWR)
            while s.recv(CHUNK):                            # what is not read when it is closed makes it a reset
                pass
        except OSError:
            pass
    s.close()


def address(text):
    host, _, port = text.rpartition(":")
    return host, int(port)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--to", required=True)
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--delay", type=float, default=0)
    parser.add_argument("--window", type=int, default=4 << 20)
    parser.add_argument("--seed", type=int, default=1)
    Relay(parser.parse_args()).run()


main()
