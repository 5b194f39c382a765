# SPDX-License-Identifier: Apache-2.0
"""Each fault of tests/tools/relay.py really happens, and nothing else does. usage: relay_test.py RELAY"""
import random
import socket
import subprocess
import sys
import threading
import time
import unittest

RELAY = sys.argv.pop(1)
SENT = random.Random(1).randbytes(300000)


class RelayTest(unittest.TestCase):
    def setUp(self):
        self.mirror = socket.create_server(("127.0.0.1", 0))
        self.relay = subprocess.Popen([sys.executable, RELAY, "--to", f"127.0.0.1:{self.mirror.getsockname()[1]}"], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, text=True)
        self.port = int(self.relay.stdout.readline().split()[-1])

    def tearDown(self):
        self.relay.stdin.close()
        self.assertEqual(self.relay.wait(10), 0)
        self.relay.stdout.close()
        self.mirror.close()

    def tell(self, *commands):
        """Returns when they were obeyed, with what the relay said before."""
        self.relay.stdin.write("\n".join(commands) + "\nsay obeyed\n")
        self.relay.stdin.flush()
        said = []
        while (line := self.relay.stdout.readline()) != "obeyed\n":
            self.assertTrue(line)
            said.append(line.strip())
        return said

    def connect(self):
        near = socket.create_connection(("127.0.0.1", self.port))
        far, _ = self.mirror.accept()
        near.settimeout(20)
        far.settimeout(20)
        return near, far

    def pass_through(self, near, far, data=SENT):
        """What arrives of the data and the end behind it, and what the sender met."""
        met = []

        def send():
            try:
                near.sendall(data)
                near.shutdown(socket.SHUT_WR)
            except OSError as e:
                met.append(e)

        sender = threading.Thread(target=send)
        sender.start()
        came = b""
        try:
            while some := far.recv(65536):
                came += some
        except OSError as e:
            met.append(e)
        sender.join()
        near.close()
        far.close()
        return came, met

    def both_ways(self):
        for way in ("up", "down"):
            near, far = self.connect()
            yield (way, near, far) if way == "up" else (way, far, near)

    def test_nothing_is_changed_unasked(self):
        for _, a, b in self.both_ways():
            self.assertEqual(self.pass_through(a, b), (SENT, []))

    def test_a_flip_is_one_bit(self):
        for way, a, b in self.both_ways():
            self.tell(f"flip {way} 123456")
            came, _ = self.pass_through(a, b)
            differ = [i for i in range(len(SENT)) if came[i] != SENT[i]]
            self.assertEqual((len(came), differ), (len(SENT), [123456]))
            self.assertEqual((came[123456] ^ SENT[123456]).bit_count(), 1)
            self.assertIn(f"flip {way} at byte 123456", self.tell()[0])

    def test_a_drop_leaves_out_and_a_double_repeats(self):
        for way, a, b in self.both_ways():
            self.tell(f"drop {way} 100000")
            came, _ = self.pass_through(a, b)
            gone = len(SENT) - len(came)
            self.assertTrue(0 < gone <= 2000)
            self.assertEqual(came, SENT[:100000] + SENT[100000 + gone:])
        for way, a, b in self.both_ways():
            self.tell(f"double {way} 100000")
            came, _ = self.pass_through(a, b)
            more = len(came) - len(SENT)
            self.assertTrue(0 < more <= 2000)
            self.assertEqual(came, SENT[:100000 + more] + SENT[100000:])

    def test_cuts_at_a_point(self):
        for kind in ("fin", "rst"):
            for way, a, b in self.both_ways():
                self.tell(f"{kind} {way} 70000")
                came, met = self.pass_through(a, b, SENT[:70001])
                self.assertEqual(SENT[:len(came)], came)
                self.assertLessEqual(len(came), 70000)
                if kind == "fin":
                    self.assertEqual((len(came), met), (70000, []))
                else:
                    self.assertTrue(any(isinstance(e, ConnectionResetError) for e in met), met)

    def test_cuts_of_all_now(self):
        for kind in ("fin", "rst"):
            pairs = [self.connect(), self.connect()]
            self.assertEqual(len(self.tell(kind)), 2)
            for s in (s for pair in pairs for s in pair):
                if kind == "fin":
                    self.assertEqual(s.recv(10), b"")
                else:
                    self.assertRaises(ConnectionResetError, s.recv, 10)
                s.close()

    def test_each_is_for_all_connections_to_come(self):
        near, far = self.connect()
        self.tell("each flip up 10")
        self.assertEqual(self.pass_through(near, far)[0], SENT)
        for _ in range(2):
            came, _ = self.pass_through(*self.connect())
            self.assertEqual([i for i in range(len(SENT)) if came[i] != SENT[i]], [10])
        self.tell("go")
        self.assertEqual(self.pass_through(*self.connect())[0], SENT)

    def test_a_stall_stops_one_way_until_it_goes_on(self):
        near, far = self.connect()
        self.tell("stall up")
        near.sendall(b"up")
        far.sendall(b"down")
        self.assertEqual(near.recv(10), b"down")
        far.settimeout(0.2)
        self.assertRaises(TimeoutError, far.recv, 10)
        far.settimeout(20)
        self.tell("go")
        self.assertEqual(far.recv(10), b"up")
        near.close()
        far.close()

    def test_refusal_and_its_end(self):
        self.tell("refuse")
        with self.assertRaises(ConnectionResetError), socket.create_connection(("127.0.0.1", self.port)) as s:
            s.recv(10)
        self.tell("go")
        self.assertEqual(self.pass_through(*self.connect())[0], SENT)

    def test_delay_is_no_shorter_than_asked_for(self):
        self.tell("delay 150")
        near, far = self.connect()
        begun = time.monotonic()
        near.sendall(b"x")
        far.sendall(far.recv(1))
        self.assertEqual(near.recv(1), b"x")
        self.assertGreaterEqual(time.monotonic() - begun, 0.3)
        near.close()
        far.close()


unittest.main()
