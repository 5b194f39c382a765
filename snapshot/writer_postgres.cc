// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include "common/log.h"
#include "common/printable.h"
#include "common/uuid.h"
#include "snapshot/child.h"
#include "snapshot/writers.h"

namespace somfs::snapshot {
namespace {

using Answer = WriterReport::Answer;

// What goes wrong, in the terms of a writer's answer.
struct Trouble {
  Answer answer;
  std::string reason;
};
template <typename T>
using Tried = tl::expected<T, Trouble>;
tl::unexpected<Trouble> trouble(Answer a, std::string reason) { return tl::unexpected<Trouble>({a, std::move(reason)}); }

std::string sql_text(std::string_view text) {
  std::string out = "'";
  for (char c : text) {
    if (c == '\'') out += '\'';
    out += c;
  }
  return out + "'";
}

// Paths and labels come as hexadecimal digits: they may hold newlines.
std::string from_hex(std::string_view hex) {
  std::string out;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2)
    out.push_back(static_cast<char>(std::strtoul(std::string(hex.substr(i, 2)).c_str(), nullptr, 16)));
  return out;
}
std::string as_hex(const std::string& sql) { return "encode(convert_to(" + sql + ", 'UTF8'), 'hex')"; }

// A psql that reads statements from us and stops at the first error. Ending it ends the backup that its session holds.
class Session {
 public:
  static Tried<std::unique_ptr<Session>> open(const PostgresConfig& c, const Clock& clock) {
    Child::Options o;
    o.argv = {c.psql, "-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1"};
    o.user = c.os_user;
    o.env = {"PGUSER=" + c.user, "PGDATABASE=" + c.database, "PGCLIENTENCODING=UTF8", "PGAPPNAME=somfs", "PGCONNECT_TIMEOUT=10",
             "PGOPTIONS=-c search_path=pg_catalog -c lc_messages=C -c idle_session_timeout=0", "LC_ALL=C", "HOME=/nonexistent"};
    if (!c.host.empty()) o.env.push_back("PGHOST=" + c.host);
    if (!c.port.empty()) o.env.push_back("PGPORT=" + c.port);
    if (!c.passfile.empty()) o.env.push_back("PGPASSFILE=" + c.passfile);
    auto child = Child::start(o, clock);
    if (!child) return trouble(Answer::failed, child.error().line());
    return std::make_unique<Session>(std::move(*child));
  }
  explicit Session(Child child) : child_(std::move(child)) {}

  // The rows that `sql` gives, one column each.
  Tried<std::vector<std::string>> ask(const std::string& sql, std::int64_t deadline) {
    child_.send(sql + ";\nSELECT " + sql_text(end_) + ";\n", deadline);  // if that fails, line() below says why
    std::vector<std::string> rows;
    for (std::string line;;) {
      switch (child_.line(&line, deadline)) {
        case Child::Got::late: return trouble(Answer::timeout, "the server did not answer in time");
        case Child::Got::end: {
          std::string why = child_.first_error();
          return trouble(Answer::failed, why.empty() ? "the session ended" : why);
        }
        case Child::Got::line: break;
      }
      if (line == end_) return rows;
      rows.push_back(line);
    }
  }
  Tried<std::string> ask_one(const std::string& sql, std::int64_t deadline) {
    auto rows = ask(sql, deadline);
    if (!rows) return tl::unexpected<Trouble>(rows.error());
    if (rows->size() != 1) return trouble(Answer::failed, "unexpected answer from the server");
    return rows->front();
  }
  void leave(std::int64_t deadline) {
    child_.close_input();
    child_.wait(deadline);
  }

 private:
  Child child_;
  const std::string end_ = "end-" + Uuid::random().text();
};

class PostgresWriter final : public Writer {
 public:
  PostgresWriter(PostgresConfig config, const Clock& clock) : config_(std::move(config)), clock_(clock) {}
  std::string name() const override { return config_.name; }
  void announce(const CutRequest& request) override { snapshot_ = request.name; }

  WriterReport prepare(std::int64_t deadline) override {
    session_.reset();
    WriterReport report;
    report.name = config_.name;
    Tried<void> done = start_backup(deadline);
    report.answer = done ? Answer::ready : done.error().answer;
    if (!done) {
      report.reason = done.error().reason;
      session_.reset();
    }
    return report;
  }

  void release(bool took_place, std::int64_t deadline) noexcept override {
    if (!session_) return;
    try {
      if (took_place) stop_backup(deadline);
      session_->leave(std::min(deadline, clock_.mono_ns() + 1'000'000'000));
    } catch (const std::exception& e) {
      log::warning("writer {}: {}", printable(config_.name), e.what());
    }
    session_.reset();  // a session that is still there is killed, and the server drops its backup
  }

 private:
  Tried<void> start_backup(std::int64_t deadline) {
    auto opened = Session::open(config_, clock_);
    if (!opened) return tl::unexpected<Trouble>(opened.error());
    session_ = std::move(*opened);
    // The server gives up by itself shortly before we would.
    const std::int64_t left_ms = std::max<std::int64_t>(1, (deadline - clock_.mono_ns()) / 1'000'000 - 100);
    if (auto r = session_->ask("SET statement_timeout = " + std::to_string(left_ms), deadline); !r)
      return tl::unexpected<Trouble>(r.error());
    auto version = session_->ask_one("SHOW server_version_num", deadline);
    if (!version) return tl::unexpected<Trouble>(version.error());
    new_names_ = std::atoi(version->c_str()) >= 150000;
    if (std::atoi(version->c_str()) < 90600) return trouble(Answer::veto, "PostgreSQL older than 9.6");
    if (auto placed = check_places(deadline); !placed) return placed;
    const std::string label = sql_text("somfs " + snapshot_);
    auto started = session_->ask_one(new_names_ ? "SELECT pg_backup_start(" + label + ", fast => true)"
                                                : "SELECT pg_start_backup(" + label + ", true, false)", deadline);
    if (!started)
      return started.error().reason.find("statement timeout") != std::string::npos
                 ? trouble(Answer::timeout, "the checkpoint did not end in time")
                 : tl::unexpected<Trouble>(started.error());
    return {};
  }

  // Data, WAL and tablespaces in the volume, or the snapshot would hold a part of the database.
  Tried<void> check_places(std::int64_t deadline) {
    auto data = session_->ask_one("SELECT " + as_hex("current_setting('data_directory')"), deadline);
    if (!data) return tl::unexpected<Trouble>(data.error());
    auto spaces = session_->ask("SELECT " + as_hex("pg_tablespace_location(oid)") +
                                " FROM pg_tablespace WHERE pg_tablespace_location(oid) <> ''", deadline);
    if (!spaces) return tl::unexpected<Trouble>(spaces.error());
    std::vector<std::string> places = {from_hex(*data)};
    for (const std::string& s : *spaces) places.push_back(from_hex(s));
    // pg_wal, or any other part, may be a symbolic link or a mount.
    std::error_code ec;
    for (std::filesystem::directory_iterator i(places[0], ec), end; !ec && i != end; i.increment(ec))
      if (i->is_directory(ec)) places.push_back(i->path().string());
    if (ec) return trouble(Answer::failed, printable(places[0]) + ": " + ec.message());
    for (const std::string& p : places)
      if (auto within = lies_within(config_.volume, p); !within)
        return trouble(within.error().exit == Exit::veto ? Answer::veto : Answer::failed, within.error().line());
    return {};
  }

  void stop_backup(std::int64_t deadline) {
    const std::int64_t left_ms = std::max<std::int64_t>(1, (deadline - clock_.mono_ns()) / 1'000'000 - 100);
    auto stop = [&]() -> Tried<std::string> {
      if (auto r = session_->ask("SET statement_timeout = " + std::to_string(left_ms), deadline); !r)
        return tl::unexpected<Trouble>(r.error());
      // The WAL that the backup needs is in the snapshot itself: its archiving is not waited for.
      return session_->ask_one("SELECT " + as_hex("labelfile") +
                               (new_names_ ? " FROM pg_backup_stop(wait_for_archive => false)" : " FROM pg_stop_backup(false, false)"),
                               deadline);
    };
    auto label = stop();
    if (!label)
      log::warning("writer {}: the backup of snapshot {} was not ended properly: {}", printable(config_.name), snapshot_,
                   label.error().reason);
    else if (config_.on_label)
      config_.on_label(snapshot_, from_hex(*label));
  }

  const PostgresConfig config_;
  const Clock& clock_;
  std::string snapshot_;
  bool new_names_ = true;  // pg_backup_start: 15 and later
  std::unique_ptr<Session> session_;
};

}  // namespace

std::shared_ptr<Writer> make_postgres_writer(PostgresConfig config, const Clock& clock) {
  return std::make_shared<PostgresWriter>(std::move(config), clock);
}

}  // namespace somfs::snapshot
