#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# somfs-bench as a user runs it, with tiny sizes: that every row is there, that results parse, that plots are well-formed, that the mirror
# of a measurement holds what was written, and the exit codes. How fast anything was is nobody's business here.
. "$(dirname "$0")/lib.sh"
: "${SOMFS_BENCH_DIR:?the scripts}" "${SOMFS_BENCH_TOOLS:?the programs that they use}"
PATH=$SOMFS_BENCH_TOOLS:$PATH
[ -d /dev/shm ] || skip "needs /dev/shm"
export BENCH_DIR=$scratch
unset BENCH_SCALE BENCH_REPEAT BENCH_PLOTS BENCH_JSON

echo "- the paper, in small"
check "paper" somfs-bench paper --quick --json --plots "$scratch/plots"
cat >"$scratch/rows.py" <<'PY'
import json, sys
import xml.dom.minidom
text = open(sys.argv[1], encoding="utf-8").read()
assert text.startswith('{"schema":1') and text.count("\n") == 1, "one object on one line, its schema first"
told = json.loads(text)
rows = told["rows"]
ids = {r["id"] for r in rows}
wanted = {"ACP-16", "ACP-17", "ACP-18", "ACP-19", "ACP-20", "SOM-5", "SOM-15", "SOM-16", "SOM-17", "SOM-18", "SOM-19", "SOM-20"}
assert wanted <= ids, f"missing: {wanted - ids}"
absent = {r["id"] for r in rows if r.get("not_in_this_version")}
assert {"SOM-5", "SOM-19"} <= absent and not absent & {"SOM-15", "SOM-18"}, absent
eight = {r["name"] for r in rows if r["id"] in ("ACP-16", "ACP-17")}
assert len(eight) == 8, eight
modes = {(r["mode"], r["journal"]) for r in rows if r["id"] == "ACP-18"}
assert {m for m, _ in modes} == {"serial", "fine", "threaded", "hybrid"} and {j for _, j in modes} >= {False}, modes
traces = [r for r in rows if r["id"] == "ACP-19"]
assert {(r["law"], r["first_ms"]) for r in traces} == {(l, f) for l in ("paper", "bottleneck") for f in (15, 30)}, traces
for r in traces:
    assert len(r["intervals_ms"]) == 20 and abs(r["intervals_ms"][0] - r["first_ms"]) < 0.01, r["intervals_ms"]
assert {(r["writes"], r["mode"]) for r in rows if r["id"] == "ACP-20"} == {(w, m) for w in ("sequential", "random") for m in ("serial", "fine", "threaded", "hybrid")}
for r in rows:
    if "mb_s" in r:
        assert r["mb_s"] > 0, r
    if "bound_mb_s" in r:
        assert r["bound_mb_s"] > 0 and r["run"]["groups"] > 0, r
both = next(r["run"] for r in rows if r.get("name") == "+ both")
assert both["sealed"] and both["codec"] == "snappy" and both["journal"] and both["wire_bytes"] < both["bytes"], both
simple = next(r["run"] for r in rows if r.get("name") == "simple batch")
assert not simple["sealed"] and simple["codec"] == "none" and simple["wire_bytes"] > simple["bytes"], simple
assert len(told["deviations"]) >= 8
for name in ("rows", "modes", "interval-saturated", "interval-steady", "random"):
    picture = xml.dom.minidom.parse(f"{sys.argv[2]}/{name}.svg")
    assert picture.documentElement.tagName == "svg", name
    assert len(picture.getElementsByTagName("polyline")) == (4 if name.startswith("interval") else 0), name
    assert picture.getElementsByTagName("polyline") or len(picture.getElementsByTagName("rect")) > 8, name
PY
check "its rows and plots" python3 "$scratch/rows.py" "$scratch/out" "$scratch/plots"

echo "- one measurement: both sides hold the same bytes"
for how in "--mode serial" "--mode fine --no-journal" "--mode threaded --codec zstd" "--mode hybrid --random --request 4K" "--plain --codec none --pacing none" \
    "--no-journal --random --request 4K --pacing paper --mode hybrid --threads 3" "--shared-cores --codec lz4 --link 50M"; do
    rm -rf "$scratch/v" "$scratch/m"
    mkdir "$scratch/v" "$scratch/m"
    # shellcheck disable=SC2086
    check "measure $how" somfs-bench-pipeline "$scratch/v" "$scratch/m" --check --file 4M --bytes 12M --seconds 0 $how
    same "$how: equal" "$(field equal <"$scratch/out")" true
    same "$how: all of it" "$(field bytes <"$scratch/out")" 12582912
done
rm -rf "$scratch/v" "$scratch/m"
mkdir "$scratch/v" "$scratch/m"

echo "- a result that is wrong is not passed over"
mkdir "$scratch/m/data"
code_is 75 somfs-bench-pipeline "$scratch/v" "$scratch/m" --no-journal --file 1M --bytes 1M
same "the mirror's reason is told" "$(grep -c "Is a directory" "$scratch/err")" 1
rmdir "$scratch/m/data"

echo "- parts, and the other scripts"
check "traces alone" somfs-bench pipeline traces --quick --json
same "only those" "$(python3 -c 'import json,sys; print({r["id"] for r in json.load(sys.stdin)["rows"]})' <"$scratch/out")" "{'ACP-19'}"
check "fs" somfs-bench fs rename --quick --json
same "its row" "$(field rows.0.workload <"$scratch/out")" rename
check "migrate" somfs-bench migrate W9 --quick
same "a table, and one object as the last line" "$(tail -1 "$scratch/out" | field rows.0.workload)" W9
check "help teaches" somfs-bench --help
for verb in paper fs migrate pipeline lag block; do
    same "help names $verb" "$(grep -c "^ *$verb " "$scratch/out")" 1
done

echo "- bad input: one line, and its code"
somfs-bench paper --help >"$scratch/out" || same "help of a verb" failed done
for bad in "" nonsense "fs bogus" "migrate W11" "pipeline shapes" "paper --repeat 0" "paper extra" "lag cp" block; do
    # shellcheck disable=SC2086
    code_is 1 somfs-bench $bad
    same "'$bad': a line says why" "$(wc -l <"$scratch/err")" 1
done
code_is 1 somfs-bench block --json
same "as an object" "$(field error.exit <"$scratch/out")" 1
for bad in "" "$scratch/none $scratch/m" "$scratch/v" "$scratch/v $scratch/m --mode odd" "$scratch/v $scratch/m --request 1000" "$scratch/v $scratch/m --threads 0" \
    "$scratch/v $scratch/m --codec lzw" "$scratch/v $scratch/m --group 1K" "$scratch/v $scratch/m --first 0"; do
    # shellcheck disable=SC2086
    code_is 1 somfs-bench-pipeline $bad
    same "'$bad': a line says why" "$(wc -l <"$scratch/err")" 1
done
SOMFS_BENCH_DIR=/nowhere code_is 2 somfs-bench paper
code_is 2 env PATH=/nowhere "$SOMFS_BIN/somfs-bench" paper
chmod 711 "$scratch"
code_is 10 setpriv --reuid 65534 --clear-groups "$SOMFS_BIN/somfs-bench" paper
SOMFS_BIN_DIR=/nowhere code_is 75 somfs-bench pipeline traces --quick
touch "$scratch/file"
code_is 1 somfs-bench paper --plots "$scratch/file/plots"

same "nothing is left mounted" "$(grep -c "somfs-bench\." /proc/mounts)" 0
same "nor lies about" "$(find "$scratch" -maxdepth 1 -name 'somfs-bench.*' | wc -l)" 0
passed
