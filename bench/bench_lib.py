# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: a scratch ext4 on memory in namespaces of its own, medians, tables.

Everything mounted or started lives in a mount and pid namespace and ends with it.
"""
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BIN = os.environ.get("SOMFS_BIN_DIR", os.path.join(ROOT, "build", "cli"))
SCALE = float(os.environ.get("BENCH_SCALE", "1"))
REPEAT = int(os.environ.get("BENCH_REPEAT", "3"))


def tool(name):
    """A program of the benchmarks: beside the scripts where they are installed, else in the build tree."""
    places = (os.path.dirname(os.path.abspath(__file__)), os.path.join(ROOT, os.environ.get("BUILD_DIR", "build"), "bench"), os.path.join(BIN, "..", "bench"))
    found = [p for p in (os.path.join(place, name) for place in places) if os.access(p, os.X_OK)]
    return os.path.normpath(found[0]) if found else None


def one_line(kind, error, trace):
    """What cannot be measured is said in one line, with the exit code for `try again`; a mistake of ours keeps its traceback."""
    if not issubclass(kind, (RuntimeError, OSError)):
        sys.__excepthook__(kind, error, trace)
        return
    print(f"bench/{os.path.basename(sys.argv[0])}: {' '.join(str(error).split())}", file=sys.stderr)
    sys.stdout.flush()
    os._exit(75)


sys.excepthook = one_line


def run(*command, **options):
    """Runs a command; its failure ends the benchmark with its own words."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, **options)
    if done.returncode:
        raise RuntimeError(f"'{' '.join(str(c) for c in command)}' exited {done.returncode}: {(done.stderr or done.stdout).strip()[-400:]}")
    return done.stdout


# A process that is started inherits the peak memory of the one that starts it: a small one stands in between, and also keeps the time.
MEASURER = """import json, os, sys, time
start = time.monotonic()
child = os.fork()
if child == 0:
    os.execvp(sys.argv[2], sys.argv[2:])
status, usage = os.wait4(child, 0)[1:]
took = time.monotonic() - start
os.write(int(sys.argv[1]), json.dumps([took, os.waitstatus_to_exitcode(status), usage.ru_maxrss, usage.ru_utime + usage.ru_stime]).encode())
"""


def timed(*command, **options):
    """Seconds, output, peak memory in KiB and processor seconds of a command."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile() as result:
        subprocess.run([sys.executable, "-S", "-E", "-c", MEASURER, str(result.fileno()), *(str(c) for c in command)],
                       stdout=out, stderr=out, stdin=subprocess.DEVNULL, pass_fds=[result.fileno()], check=True, **options)
        result.seek(0)
        seconds, code, memory, cpu = json.load(result)
        out.seek(0)
        text = out.read()
    if code:
        raise RuntimeError(f"'{' '.join(str(c) for c in command)}' exited {code}: {text.strip()[-400:]}")
    return seconds, text, memory, cpu


def cpu_of(pid):
    """Processor seconds of a process and of its children that ended."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
        ticks = f.read().rsplit(")", 1)[1].split()[11:15]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def somfs_built():
    return all(os.access(os.path.join(BIN, p), os.X_OK) for p in ("somfs", "somfs-ctl"))


def enter_namespaces(*more):
    """Starts this script again in namespaces that end with it, on scratch memory."""
    if os.environ.get("SOMFS_BENCH_SCRATCH"):
        run("mount", "--make-rprivate", "/")
        return os.environ["SOMFS_BENCH_SCRATCH"]
    if os.geteuid() != 0:
        sys.exit("bench: loop devices, mounts and namespaces need root")
    base = os.environ.get("BENCH_DIR", "/dev/shm" if os.path.isdir("/dev/shm") else "/tmp")
    scratch = tempfile.mkdtemp(prefix="somfs-bench.", dir=base)
    try:
        child = subprocess.run(["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", *more, sys.executable, *sys.argv],
                               env={**os.environ, "SOMFS_BENCH_SCRATCH": scratch}, check=False)
        sys.exit(child.returncode)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def disk(scratch, gigabytes, kind="ext4"):
    """A fresh file system on memory, gone afterwards. Two at a time need a `scratch` each."""
    os.makedirs(scratch, exist_ok=True)
    image, where = os.path.join(scratch, "image"), os.path.join(scratch, kind)
    with open(image, "wb") as f:
        f.truncate(int(gigabytes * (1 << 30)))
    os.makedirs(where, exist_ok=True)
    # ext4: inodes for trees of small files; tables written now, not by the kernel during a measurement
    how = ("-q", "-F", "-i", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0") if kind == "ext4" else ("-q",)
    run("mkfs." + kind, *how, image)
    run("mount", "-o", "loop,noatime", image, where)
    try:
        yield where
    finally:
        unmount(where)
        os.remove(image)


@contextlib.contextmanager
def mounted(peer, backing, at):
    """PEER over BACKING at AT. `native` mounts nothing; yields the directory to work in."""
    os.makedirs(at, exist_ok=True)
    if peer == "native":
        yield backing
        return
    if peer == "bindfs":
        run("bindfs", "--multithreaded", backing, at)
    elif peer == "mergerfs":
        run("mergerfs", "-o", "cache.files=auto-full,category.create=ff,minfreespace=0", backing, at)
    elif peer == "somfs":
        run(os.path.join(BIN, "somfs"), backing, at)
    elif peer == "somfs-passthrough":
        run(os.path.join(BIN, "somfs"), "-o", "passthrough", backing, at)
    else:
        raise ValueError(peer)
    try:
        yield at
    finally:
        unmount(at)


def unmount(at):
    """Right after the last close a FUSE file system may be busy for a moment, and its daemon may still hold what lies beneath."""
    for attempt in range(50):
        try:
            run("umount", at)
            return
        except RuntimeError:
            if attempt == 49:
                raise
            time.sleep(0.1)


def median(values):
    return statistics.median(values) if values else None


def table(head, rows):
    cells = [head] + [["-" if c is None else str(c) for c in row] for row in rows]
    widths = [max(len(r[i]) for r in cells) for i in range(len(head))]
    for n, row in enumerate(cells):
        print("  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))).rstrip())
        if n == 0:
            print("  ".join("-" * w for w in widths))


def number(value, digits=2):
    return None if value is None else f"{value:.{digits}f}"


def conditions():
    return {"kernel": os.uname().release, "cores": os.cpu_count(), "scale": SCALE, "repeat": REPEAT,
            "load": os.getloadavg()[0], "file_system": "ext4 on memory", "somfs": somfs_built()}


def report(name, rows, **more):
    """The rows as one JSON object: the last line of the output, and in $BENCH_JSON."""
    result = {"schema": 1, "benchmark": name, "conditions": conditions(), "rows": rows, **more}
    print()
    print(json.dumps(result))
    if os.environ.get("BENCH_JSON"):
        with open(os.environ["BENCH_JSON"], "w", encoding="utf-8") as f:
            json.dump(result, f, indent=1)
            f.write("\n")
