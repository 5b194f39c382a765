#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Money transfers in SQLite and PostgreSQL go on while snapshots are taken and migrated; opened from the snapshot and from the mirror, no
# money is lost or made. The databases lie on the mount, so a snapshot that waited for them would never end.
. "$(dirname "$0")/lib.sh"

d=$scratch/vol m=$scratch/mirror
mkdir "$d"
chmod 755 "$scratch"
pgbin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -1)
cat >"$scratch/vol.conf" <<CONF
[[writer]]
type = "sqlite"
files = ["bank.db"]
timeout = "60s"
CONF
if [ -n "$pgbin" ]; then
    cat >>"$scratch/vol.conf" <<CONF
[[writer]]
type = "postgresql"
socket = "$scratch/pgsock"
user = "postgres"
database = "postgres"
timeout = "60s"
CONF
fi
check "mounts" somfs "$d" -o config="$scratch/vol.conf"

sqlite3 "$d/bank.db" "PRAGMA journal_mode=WAL; CREATE TABLE account(id INTEGER PRIMARY KEY, money INTEGER); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<100) INSERT INTO account SELECT i, 1000 FROM n;" >/dev/null
(while [ ! -e "$scratch/stop" ]; do
    a=$((RANDOM % 100 + 1)) b=$((RANDOM % 100 + 1)) x=$((RANDOM % 50))
    echo "PRAGMA busy_timeout=20000; BEGIN IMMEDIATE; UPDATE account SET money=money-$x WHERE id=$a; UPDATE account SET money=money+$x WHERE id=$b; COMMIT;"
done | sqlite3 "$d/bank.db" >/dev/null 2>"$scratch/sqlite.err") &
started="$started $!"

if [ -n "$pgbin" ]; then
    mkdir "$d/pg" "$scratch/pgsock"
    chown postgres: "$d/pg" "$scratch/pgsock"; chmod 700 "$d/pg"
    as_pg() { setpriv --reuid=postgres --regid=postgres --init-groups env -i PATH="$pgbin:$PATH" HOME=/tmp PGHOST="$scratch/pgsock" LC_ALL=C "$@"; }
    check "initdb" as_pg initdb -D "$d/pg" -U postgres -A trust -N
    as_pg postgres -D "$d/pg" -k "$scratch/pgsock" -c listen_addresses= >"$scratch/pg.log" 2>&1 &
    started="$started $!"
    for _ in $(seq 600); do as_pg pg_isready -q && break; sleep 0.1; done
    check "table" as_pg psql -U postgres -qc "CREATE TABLE account(id int PRIMARY KEY, money int); INSERT INTO account SELECT i, 1000 FROM generate_series(1,100) i"
    cat >"$scratch/transfer.sql" <<'SQL'
\set a random(1, 100)
\set b random(1, 100)
\set x random(0, 50)
BEGIN; UPDATE account SET money=money-:x WHERE id=least(:a,:b); UPDATE account SET money=money+:x WHERE id=greatest(:a,:b); COMMIT;
SQL
    if [ -x "$pgbin/pgbench" ]; then
        as_pg pgbench -U postgres -n -c 2 -T 60 -f "$scratch/transfer.sql" postgres >"$scratch/pgbench.log" 2>&1 &
        started="$started $!"
    fi
fi

sqlite_sum() { # of a read-only tree: a copy is opened, as SQLite writes beside it
    rm -rf "$scratch/q"; mkdir "$scratch/q"; cp "$1"/bank.db* "$scratch/q/"
    [ "$(sqlite3 "$scratch/q/bank.db" 'PRAGMA integrity_check; SELECT sum(money), count(*) FROM account;' | tr '\n' ' ')" = "ok 100000|100 " ]
}
pg_sum() {
    [ -n "$pgbin" ] || return 0
    rm -rf "$scratch/p"; cp -a "$1/pg" "$scratch/p"; rm -f "$scratch/p/postmaster.pid"; mkdir -p "$scratch/p.sock"; chown postgres: "$scratch/p.sock"
    as_pg pg_ctl -D "$scratch/p" -w -t 60 -l "$scratch/p.sock/log" -o "-k $scratch/p.sock -c listen_addresses= -c port=5499" start >/dev/null || { tail -5 "$scratch/p.sock/log"; return 1; }
    got=$(as_pg env PGHOST="$scratch/p.sock" psql -U postgres -p 5499 -Atc 'SELECT sum(money), count(*) FROM account')
    as_pg pg_ctl -D "$scratch/p" -w -m immediate stop >/dev/null
    [ "$got" = "100000|100" ] || { echo "sum is $got"; return 1; }
}
for i in 1 2 3; do
    sleep 1
    check "snapshot $i" somfs-ctl snapshot create "$d" --name "s$i" --json || continue
    same "consistency $i" "$(python3 -c 'import json,sys; v=json.loads(open(sys.argv[1]).readline()); print(v["consistency"], *[w["answer"] for w in v["writers"]])' "$scratch/out" | tr ' ' '\n' | sort -u | tr '\n' ' ')" "application ready "
    check "SQLite in snapshot $i" sqlite_sum "$d/.somfs/snapshots/s$i"
    check "PostgreSQL in snapshot $i" pg_sum "$d/.somfs/snapshots/s$i"
    check "migrates $i" somfs-ctl migrate "$d" "$m" --quiet
    check "SQLite in mirror $i" sqlite_sum "$m/tree"
    check "PostgreSQL in mirror $i" pg_sum "$m/tree"
    check "snapshot $i goes" somfs-ctl snapshot delete "$d" "s$i"
done
if [ -n "$pgbin" ]; then
    as_pg psql -U postgres -qAtc 'SELECT count(*) FROM account' >"$scratch/out" 2>&1
    same "the server went on" "$(cat "$scratch/out")" 100
fi
touch "$scratch/stop"
passed
