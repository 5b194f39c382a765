#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Keeps the house in order: which room may include which, what the portable cores may use, that every source says its
licence, and that the documents name no file that is not there. Each rule is first broken on purpose in a scratch tree and
must be caught there, so a rule that has gone blind fails the test.

usage: layers_test.py ROOT
"""
import os
import re
import sys
import tempfile

ROOMS = ("common", "fs", "snapshot", "replicator", "cli")
MAY_INCLUDE = {
    "common": {"common"},
    "fs": {"fs", "common"},
    "snapshot": {"snapshot", "common"},
    "replicator": {"replicator", "snapshot", "common"},
    "cli": set(ROOMS),
}
# What replicator/ may see of snapshot/.
SNAPSHOT_PUBLIC = {"coordinator.h", "dirty_set.h", "gap_scan.h", "journal.h", "store.h", "view.h"}
# Cores that other systems share: the C++ standard library and each other, nothing else.
PORTABLE = {
    "common/bytes.h", "common/bytes.cc", "common/change.h", "common/clock.h", "common/object.h", "common/object.cc",
    "common/printable.h", "common/printable.cc", "common/result.h", "common/result.cc", "common/sync.h", "common/uuid.h",
    "snapshot/coordinator.h", "snapshot/coordinator.cc", "snapshot/dirty_set.h", "snapshot/dirty_set.cc",
    "replicator/group.h", "replicator/group.cc", "replicator/pipeline.h", "replicator/pipeline.cc", "replicator/stage.h", "replicator/wire.h",
}
PORTABLE_THIRD_PARTY = {"tl/expected.hpp"}
# A C file in a room is a core that a driver will hold: freestanding C11.
FREESTANDING = {"float.h", "iso646.h", "limits.h", "stdalign.h", "stdarg.h", "stdbool.h", "stddef.h", "stdint.h", "stdnoreturn.h"}
SOURCE_ENDINGS = (".c", ".cc", ".h", ".py", ".sh")
SOURCE_ROOMS = ROOMS + ("tests", "bench", "scripts", "packaging")
DOCUMENTED_ROOTS = SOURCE_ROOMS + ("docs",)

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.M)
LINK = re.compile(r"\]\(([^)\s]+)\)")
QUOTED = re.compile(r"`([^`\s]+)`")


def read(path):
    with open(path, encoding="utf-8", errors="replace") as f:
        return f.read()


def files(root, rooms):
    for room in rooms:
        for where, dirs, names in os.walk(os.path.join(root, room)):
            dirs[:] = sorted(d for d in dirs if not d.startswith("__"))
            for name in sorted(names):
                yield os.path.relpath(os.path.join(where, name), root)


def check_includes(root):
    for path in files(root, ROOMS):
        if not path.endswith((".c", ".cc", ".h")):
            continue
        room = path.split("/")[0]
        # a C core moves as a pair of files, so it may call its own header by either name
        own_header = {path[:-2] + ".h", os.path.basename(path)[:-2] + ".h"} if path.endswith(".c") else set()
        for kind, name in INCLUDE.findall(read(os.path.join(root, path))):
            other = name.split("/")[0]
            if other in ROOMS and "/" in name:
                if other not in MAY_INCLUDE[room]:
                    yield f"{path}: {room}/ must not include {name}"
                elif room == "replicator" and other == "snapshot" and name.split("/", 1)[1] not in SNAPSHOT_PUBLIC:
                    yield f"{path}: {name} is private to snapshot/"
                if path in PORTABLE and name not in PORTABLE:
                    yield f"{path}: a portable core must not include {name}, which is not one"
            elif kind == '"' and name not in own_header and not os.path.exists(os.path.join(root, name)):
                yield f"{path}: include {name} by its path from the root of the project"
            elif path in PORTABLE and name not in PORTABLE_THIRD_PARTY and not re.fullmatch(r"[a-z_]+", name):
                yield f"{path}: a portable core uses the standard library alone, not <{name}>"
            if path.endswith(".c") and name not in FREESTANDING | own_header:
                yield f"{path}: a C core is freestanding and must not include {name}"


def check_licence(root):
    for path in files(root, SOURCE_ROOMS):
        full = os.path.join(root, path)
        head = "\n".join(read(full).split("\n", 3)[:3])
        script = head.startswith("#!")
        if (path.endswith(SOURCE_ENDINGS) or script) and "SPDX-License-Identifier: Apache-2.0" not in head:
            yield f"{path}: the first lines must hold SPDX-License-Identifier: Apache-2.0"


def documents(root):
    for name in ("README.md", "CHANGELOG.md"):
        if os.path.exists(os.path.join(root, name)):
            yield name
    for path in files(root, ("docs",)):
        if path.endswith((".md", ".scd")):
            yield path


def exists(root, base, target):
    target = target.split("#")[0].rstrip("/")
    if not target:
        return True
    for start in (base, root):
        full = os.path.join(start, target)
        # a part is named without its ending: `fs/gate` stands for gate.h and gate.cc
        if os.path.exists(full) or any(os.path.exists(full + end) for end in (".h", ".cc", ".c")):
            return True
    return False


def check_documents(root):
    for path in documents(root):
        text = read(os.path.join(root, path))
        base = os.path.dirname(os.path.join(root, path))
        for target in LINK.findall(text) if path.endswith(".md") else ():
            if "://" not in target and not target.startswith(("mailto:", "#")) and not exists(root, base, target):
                yield f"{path}: links to {target}, which does not exist"
        for name in QUOTED.findall(text):
            if re.fullmatch(r"[\w.@-]+(/[\w.@-]+)+/?", name) and name.split("/")[0] in DOCUMENTED_ROOTS and not exists(root, root, name):
                yield f"{path}: names {name}, which does not exist"


RULES = (check_includes, check_licence, check_documents)


def check(root):
    return [complaint for rule in RULES for complaint in rule(root)]


SPDX = "// SPDX-License-Identifier: Apache-2.0\n"
GOOD = {
    "common/result.h": SPDX + "#include <string>\n#include <tl/expected.hpp>\n",
    "common/fd.h": SPDX + "#include <unistd.h>\n#include \"common/result.h\"\n",
    "fs/freeze_queue.h": SPDX, "fs/freeze_queue.c": SPDX + '#include <stddef.h>\n#include "fs/freeze_queue.h"\n',
    "fs/timer.h": SPDX, "fs/timer.c": SPDX + '#include "timer.h"\n',
    "snapshot/dirty_set.h": SPDX + '#include <map>\n#include "common/result.h"\n',
    "snapshot/segment.h": SPDX,
    "replicator/sender.h": SPDX + '#include "snapshot/dirty_set.h"\n',
    "docs/page.md": "`fs/freeze_queue` [page](page.md) `docs/page.md` `x/y` [web](https://example.org)\n",
}
BREAKS = (
    ("fs/mount.h", SPDX + '#include "snapshot/dirty_set.h"\n', "fs/ must not include"),
    ("fs/mount.h", SPDX + '#  include <snapshot/dirty_set.h>\n', "fs/ must not include"),
    ("snapshot/view.h", SPDX + '#include "fs/freeze_queue.h"\n', "snapshot/ must not include"),
    ("snapshot/view.h", SPDX + '#include "replicator/sender.h"\n', "snapshot/ must not include"),
    ("common/log.h", SPDX + '#include "fs/freeze_queue.h"\n', "common/ must not include"),
    ("replicator/mirror.h", SPDX + '#include "fs/freeze_queue.h"\n', "replicator/ must not include"),
    ("replicator/mirror.h", SPDX + '#include "snapshot/segment.h"\n', "private to snapshot/"),
    ("snapshot/dirty_set.cc", SPDX + "#include <unistd.h>\n", "standard library alone"),
    ("snapshot/dirty_set.cc", SPDX + "#include <fmt/format.h>\n", "standard library alone"),
    ("snapshot/dirty_set.cc", SPDX + '#include "common/fd.h"\n', "which is not one"),
    ("fs/ring.c", SPDX + "#include <stdio.h>\n", "freestanding"),
    ("fs/ring.c", SPDX + '#include "freeze_queue.h"\n', "by its path"),
    ("fs/near.cc", SPDX + '#include "mount.h"\n', "by its path"),
    ("cli/main.cc", "int main() {}\n", "SPDX"),
    ("tests/a_test.sh", "#!/bin/sh\ntrue\n", "SPDX"),
    ("scripts/tool", "#!/bin/sh\ntrue\n", "SPDX"),
    ("docs/other.md", "[gone](gone.md)\n", "links to gone.md"),
    ("docs/other.md", "see `fs/gone.cc`\n", "names fs/gone.cc"),
    ("docs/man/a.scd", "see `docs/gone.md`\n", "names docs/gone.md"),
)


def put(root, path, text):
    full = os.path.join(root, path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    with open(full, "w", encoding="utf-8") as f:
        f.write(text)


def blind_rules():
    """Complaints about the rules themselves: what they no longer see, or see where nothing is wrong."""
    with tempfile.TemporaryDirectory(prefix="somfs-layers.") as root:
        for path, text in GOOD.items():
            put(root, path, text)
        for complaint in check(root):
            yield f"false alarm on a good tree: {complaint}"
        for path, text, expected in BREAKS:
            put(root, path, text)
            if not any(expected in complaint and complaint.startswith(path) for complaint in check(root)):
                yield f"not caught: {path} with {text.splitlines()[-1]!r} (expected: {expected})"
            os.remove(os.path.join(root, path))


def main():
    if len(sys.argv) != 2:
        print(__doc__.strip().splitlines()[-1], file=sys.stderr)
        return 1
    root = os.path.abspath(sys.argv[1])
    complaints = list(blind_rules()) + check(root)
    for complaint in complaints:
        print(complaint)
    print(f"{len(BREAKS)} deliberate breaks tried, {len(complaints)} complaints")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
