# SPDX-License-Identifier: Apache-2.0
# What the platform tests share. A test sources this with the programs' directories in SOMFS_BIN and SOMFS_TOOLS, and calls
# `passed` at its end. Everything lies in $scratch; every mount and process is gone when the test ends, however it ends.
set -u
# In a mount namespace of its own: another one, made while a test runs, would hold on to its mounts.
[ "$(id -u)" != 0 ] || [ -n "${SOMFS_TEST_ALONE:-}" ] || SOMFS_TEST_ALONE=1 exec unshare -m --propagation slave bash "$0" "$@"
: "${SOMFS_BIN:?the directory of the programs}" "${SOMFS_TOOLS:?the directory of the instruments}"
PATH=$SOMFS_BIN:$SOMFS_TOOLS:$PATH
skip() { echo "skipped: $*"; exit 77; }
[ "$(id -u)" = 0 ] || skip "needs root"
[ -c /dev/fuse ] || skip "needs /dev/fuse"

scratch=$(mktemp -d "${TMPDIR:-/tmp}/somfs-test-XXXXXX")
export SOMFS_RUN_DIR=$scratch/run SOMFS_CONFIG_DIR=$scratch/etc
mkdir -p "$SOMFS_CONFIG_DIR"
started=
failures=0

cleanup() {
    code=$?
    for p in $started; do kill -9 "$p" 2>/dev/null; wait "$p" 2>/dev/null; done
    # Deepest first; a mount whose process hangs is detached and its process, known from the run directory, ended.
    for f in "$SOMFS_RUN_DIR"/*.json; do
        [ -e "$f" ] || continue
        pid=$(sed -n 's/.*"pid":\([0-9]*\).*/\1/p' "$f")
        mp=$(sed -n 's/.*"mountpoint":"\([^"]*\)".*/\1/p' "$f")
        timeout 10 umount "$mp" 2>/dev/null || umount -l "$mp" 2>/dev/null
        [ -n "$pid" ] && for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$pid" 2>/dev/null || break; sleep 0.2; done
        [ -n "$pid" ] && grep -qs somfs "/proc/$pid/comm" && kill -9 "$pid" 2>/dev/null
    done
    awk -v s="$scratch/" 'index($5, s) == 1 {print $5}' /proc/self/mountinfo | sort -r | while read -r m; do umount -l "$m" 2>/dev/null; done
    rm -rf "$scratch"
    exit $code
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

check() { # check "what" command...: the command must succeed
    what=$1
    shift
    # What the command before printed stays readable while this one runs.
    "$@" >"$scratch/out.new" 2>"$scratch/err"
    code=$?
    mv "$scratch/out.new" "$scratch/out"
    [ "$code" = 0 ] && return 0
    echo "FAILED: $what (exit $code): $*"
    sed 's/^/    /' "$scratch/out" "$scratch/err" | head -20
    failures=$((failures + 1))
    return 1
}
code_is() { # code_is N command...: the command must exit with N, with at most one line on standard error
    want=$1
    shift
    "$@" >"$scratch/out" 2>"$scratch/err"
    got=$?
    if [ "$got" != "$want" ] || [ "$(wc -l <"$scratch/err")" -gt 1 ]; then
        echo "FAILED: expected exit $want with at most one line, got $got: $*"
        sed 's/^/    /' "$scratch/out" "$scratch/err" | head -20
        failures=$((failures + 1))
        return 1
    fi
}
make_tree() { mkdir -p "$1" && treegen "$@"; }
same() { # same "what" A B
    [ "$2" = "$3" ] && return 0
    echo "FAILED: $1: '$2' is not '$3'"
    failures=$((failures + 1))
    return 1
}
field() { python3 -c 'import json,sys
v=json.loads(sys.stdin.readline())
for k in sys.argv[1].split("."): v=v[int(k)] if isinstance(v,list) else v[k]
print(json.dumps(v) if isinstance(v,(dict,list,bool)) or v is None else v)' "$1"; }
mount_pid() { somfs-ctl status "$1" --json | field volumes.0.pid; }
appears() { # appears FILE: with something in it, within two minutes; for what another process makes in its own time
    for _ in $(seq 2400); do [ -s "$1" ] && return 0; sleep 0.05; done
    echo "FAILED: $1 does not appear"
    failures=$((failures + 1))
    return 1
}
wait_gone() { for _ in $(seq 600); do kill -0 "$1" 2>/dev/null || return 0; sleep 0.1; done; return 1; }
passed() {
    [ "$failures" = 0 ] || { echo "$failures checks failed"; exit 1; }
    echo "passed"
    exit 0
}
