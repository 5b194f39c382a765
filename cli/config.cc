// SPDX-License-Identifier: Apache-2.0
#include "cli/config.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <set>

#include <toml++/toml.h>

#include "cli/terminal.h"
#include "common/fd.h"
#include "common/object.h"
#include "common/printable.h"
#include "replicator/allow_list.h"

namespace somfs::cli {
namespace {

constexpr const char* kPipelines = "auto, serial, fine, threaded or hybrid is expected";
constexpr const char* kCodecs = "snappy, lz4, zstd or none is expected";
constexpr unsigned kMostThreads = 64;   // of a lane

// Reads a table's keys one by one; what was never asked for is an unknown key.
class Section {
 public:
  Section(const toml::table* table, std::string name, const std::string& file) : table_(table), name_(std::move(name)), file_(file) {}

  Status text(const char* key, std::string* out) {
    const toml::node* n = find(key);
    if (n == nullptr) return {};
    auto v = n->value<std::string>();
    if (!v || !n->is_string()) return wrong(key, "a string is expected");
    *out = *v;
    return {};
  }
  // A string with a unit, or a bare number.
  template <typename T, typename Parse>
  Status quantity(const char* key, T* out, Parse parse, double scale = 1) {
    const toml::node* n = find(key);
    if (n == nullptr) return {};
    std::string text = n->is_string() ? *n->value<std::string>() : n->is_number() ? std::to_string(*n->value<double>()) : "";
    auto v = parse(text);
    if (!v) return wrong(key, v.error().line());
    const double scaled = static_cast<double>(*v) * scale;
    if (!(scaled < static_cast<double>(std::numeric_limits<T>::max()))) return wrong(key, "too large");
    *out = static_cast<T>(scaled);
    return {};
  }
  // 0.5 or "50%".
  Status share(const char* key, double* out) {
    const toml::node* n = find(key);
    if (n == nullptr) return {};
    auto v = n->value<double>();
    if (auto text = n->value<std::string>(); n->is_string() && text->size() > 1 && text->back() == '%') v = std::atof(text->c_str()) / 100;
    if (!v || !(*v > 0 && *v <= 1)) return wrong(key, "a number above 0 and up to 1 is expected");
    *out = *v;
    return {};
  }
  Status count(const char* key, unsigned* out, unsigned most) {
    const toml::node* n = find(key);
    if (n == nullptr) return {};
    const auto v = n->value<std::int64_t>();
    if (!v || !n->is_integer() || *v < 1 || *v > most) return wrong(key, "a number from 1 to " + std::to_string(most) + " is expected");
    *out = static_cast<unsigned>(*v);
    return {};
  }
  Status list(const char* key, std::vector<std::string>* out) {
    const toml::node* n = find(key);
    if (n == nullptr) return {};
    const toml::array* a = n->as_array();
    if (a == nullptr) return wrong(key, "a list of strings is expected");
    for (const auto& e : *a) {
      if (!e.is_string()) return wrong(key, "a list of strings is expected");
      out->push_back(*e.value<std::string>());
    }
    return {};
  }
  Status done() const {
    if (table_ == nullptr) return {};
    for (const auto& [key, node] : *table_)
      if (!asked_.contains(std::string(key.str()))) return wrong(std::string(key.str()).c_str(), "unknown key");
    return {};
  }
  tl::unexpected<Error> wrong(const char* key, const std::string& why) const {
    return fail(Exit::configuration, "bad configuration", file_ + " [" + name_ + "] " + printable(key), why, "see somfs.conf(5)");
  }

 private:
  const toml::node* find(const char* key) {
    asked_.insert(key);
    return table_ == nullptr ? nullptr : table_->get(key);
  }
  const toml::table* table_;
  std::string name_;
  const std::string& file_;
  std::set<std::string> asked_;
};

Status check_exclude(std::string* path, const Section& section) {
  while (!path->empty() && path->back() == '/') path->pop_back();
  while (!path->empty() && path->front() == '/') path->erase(0, 1);
  std::size_t at = 0;
  while (at <= path->size()) {
    std::size_t end = std::min(path->find('/', at), path->size());
    if (!valid_name(path->substr(at, end - at))) return section.wrong("exclude", "'" + printable(*path) + "' is not a path beneath the volume");
    at = end + 1;
  }
  return {};
}

Result<WriterConfig> parse_writer(const toml::table& table, const std::string& file) {
  WriterConfig w;
  Section s(&table, "writer", file);
  SOMFS_TRY(s.text("type", &w.type));
  SOMFS_TRY(s.text("name", &w.name));
  SOMFS_TRY(s.quantity("timeout", &w.timeout_s, parse_seconds));
  if (w.type == "postgresql") {
    SOMFS_TRY(s.text("socket", &w.socket));
    SOMFS_TRY(s.text("user", &w.user));
    SOMFS_TRY(s.text("database", &w.database));
    double port = 0;
    SOMFS_TRY(s.quantity("port", &port, parse_seconds));
    if (port != std::floor(port) || port > 65535) return s.wrong("port", "a port number is expected");
    if (port > 0) w.port = std::to_string(static_cast<int>(port));
  } else if (w.type == "sqlite") {
    SOMFS_TRY(s.list("files", &w.files));
    if (w.files.empty()) return s.wrong("files", "a SQLite writer needs its database files");
  } else if (w.type == "cgroup") {
    SOMFS_TRY(s.text("path", &w.path));
    if (w.path.empty()) return s.wrong("path", "a cgroup writer needs the path of its cgroup");
  } else if (w.type == "hooks") {
    SOMFS_TRY(s.text("directory", &w.directory));
    if (w.directory.empty()) return s.wrong("directory", "a hooks writer needs its directory");
  } else {
    return s.wrong("type", "one of postgresql, sqlite, cgroup, hooks is expected");
  }
  SOMFS_TRY(s.done());
  return w;
}

Result<ForwardConfig> parse_forward(const toml::table& table, const std::string& file) {
  constexpr std::uint64_t kLeastSpool = 1u << 20;
  ForwardConfig f;
  Section s(&table, "forward", file);
  SOMFS_TRY(s.text("volume", &f.volume));
  if (!replicator::volume_name_ok(f.volume)) return s.wrong("volume", "the name of one of the daemon's volumes is expected");
  SOMFS_TRY(s.text("target", &f.target));
  if (f.target.empty()) return s.wrong("target", "a mirror is expected, as somfs://HOST:PORT/VOLUME");
  SOMFS_TRY(s.quantity("spool", &f.spool, parse_bytes));
  if (f.spool < kLeastSpool) return s.wrong("spool", "a size of 1MiB or more is expected");
  SOMFS_TRY(s.share("brake", &f.brake));
  SOMFS_TRY(s.quantity("bwlimit", &f.link.bwlimit, parse_bytes));
  std::string compress;
  SOMFS_TRY(s.text("compress", &compress));
  if (!compress.empty()) {
    const auto codec = replicator::codec_named(compress);
    if (!codec) return s.wrong("compress", kCodecs);
    f.link.codec = *codec;
  }
  SOMFS_TRY(s.done());
  return f;
}

// Tables of these names, and for [[writer]] and [[forward]] an array of them.
Result<toml::table> parse_toml(const std::string& text, const std::string& file, const std::set<std::string>& known) {
  toml::table root;
  try {
    root = toml::parse(text);
  } catch (const toml::parse_error& e) {
    return fail(Exit::configuration, "bad configuration", file + ":" + std::to_string(e.source().begin.line), std::string(e.description()),
                "see somfs.conf(5)");
  }
  for (const auto& [key, node] : root) {
    std::string k(key.str());
    if (!known.contains(k)) return fail(Exit::configuration, "bad configuration", file, "unknown section [" + printable(k) + "]", "see somfs.conf(5)");
    if (k != "writer" && k != "forward" && !node.is_table())
      return fail(Exit::configuration, "bad configuration", file, "[" + k + "] is not a section", "see somfs.conf(5)");
  }
  return root;
}

Result<std::string> read_config(const std::string& file) {
  auto text = read_file(AT_FDCWD, file, 1u << 20);
  if (!text) {
    Error e = std::move(text).error();
    e.exit = Exit::configuration;
    e.what = "cannot read the configuration";
    return pass_on(std::move(e));
  }
  struct stat st{};
  if (::stat(file.c_str(), &st) == 0 && ((st.st_uid != 0 && st.st_uid != ::geteuid()) || (st.st_mode & 022) != 0))
    return fail(Exit::configuration, "refusing the configuration", printable(file), "it belongs to another user or others may write it",
                "chown root it, and chmod go-w");
  return text;
}

}  // namespace

std::uint64_t Config::reserve_bytes(std::uint64_t total) const {
  if (!reserve.empty() && reserve.back() == '%') return static_cast<std::uint64_t>(static_cast<double>(total) * std::atof(reserve.c_str()) / 100);
  auto v = parse_bytes(reserve);
  return v ? *v : 0;
}

Result<Config> parse_config(const std::string& text, const std::string& file) {
  Config c;
  c.file = file;
  SOMFS_TRY_ASSIGN(const toml::table root, parse_toml(text, file, {"volume", "snapshot", "journal", "migrate", "writer"}));
  if (const toml::node* w = root.get("writer"); w != nullptr && !w->is_array_of_tables())
    return fail(Exit::configuration, "bad configuration", file, "writers are written [[writer]]", "see somfs.conf(5)");
  Section volume(root["volume"].as_table(), "volume", file);
  SOMFS_TRY(volume.list("exclude", &c.excludes));
  for (std::string& e : c.excludes) SOMFS_TRY(check_exclude(&e, volume));
  SOMFS_TRY(volume.done());

  Section snap(root["snapshot"].as_table(), "snapshot", file);
  SOMFS_TRY(snap.text("reserve", &c.reserve));
  bool percent = !c.reserve.empty() && c.reserve.back() == '%';
  if (percent ? !(std::atof(c.reserve.c_str()) >= 0 && std::atof(c.reserve.c_str()) < 100) : !parse_bytes(c.reserve))
    return snap.wrong("reserve", "a size or a share such as \"5%\" is expected");
  SOMFS_TRY(snap.quantity("expire", &c.expire_s, parse_seconds));
  SOMFS_TRY(snap.quantity("index_memory", &c.index_memory, parse_bytes));
  SOMFS_TRY(snap.quantity("parked", &c.parked_bytes, parse_bytes));
  SOMFS_TRY(snap.quantity("hold", &c.hold_ms, parse_seconds, 1000));
  SOMFS_TRY(snap.quantity("drain", &c.drain_ms, parse_seconds, 1000));
  if (c.hold_ms < 10 || c.hold_ms > 30000) return snap.wrong("hold", "between 10ms and 30s is expected");
  if (c.drain_ms < 10 || c.drain_ms > 60000) return snap.wrong("drain", "between 10ms and 60s is expected");
  SOMFS_TRY(snap.done());

  Section journal(root["journal"].as_table(), "journal", file);
  SOMFS_TRY(journal.quantity("memory", &c.journal_memory, parse_bytes));
  SOMFS_TRY(journal.done());

  Section migrate(root["migrate"].as_table(), "migrate", file);
  SOMFS_TRY(migrate.text("target", &c.target));
  SOMFS_TRY(migrate.share("brake", &c.brake));
  SOMFS_TRY(migrate.quantity("bwlimit", &c.link.bwlimit, parse_bytes));
  std::string pipeline, compress;
  SOMFS_TRY(migrate.text("pipeline", &pipeline));
  SOMFS_TRY(migrate.text("compress", &compress));
  if (!pipeline.empty() && !replicator::pipeline_mode(pipeline)) return migrate.wrong("pipeline", kPipelines);
  if (!compress.empty() && !replicator::codec_named(compress)) return migrate.wrong("compress", kCodecs);
  SOMFS_TRY_ASSIGN(c.link, link_settings(c, pipeline, compress));
  SOMFS_TRY(migrate.count("threads", &c.link.threads, kMostThreads));
  SOMFS_TRY(migrate.done());

  if (const toml::array* writers = root["writer"].as_array()) {
    for (const auto& w : *writers) {
      SOMFS_TRY_ASSIGN(WriterConfig one, parse_writer(*w.as_table(), file));
      if (one.name.empty()) {
        auto alike = std::count_if(c.writers.begin(), c.writers.end(), [&](const WriterConfig& other) { return other.type == one.type; });
        one.name = alike == 0 ? one.type : one.type + "-" + std::to_string(alike + 1);
      }
      c.writers.push_back(std::move(one));
    }
  }
  return c;
}

Result<replicator::StreamSettings> link_settings(const Config& config, const std::string& pipeline, const std::string& compress) {
  replicator::StreamSettings link = config.link;
  if (!pipeline.empty()) {
    const auto mode = replicator::pipeline_mode(pipeline);
    if (!mode) return fail(Exit::usage, "no such pipeline", printable(pipeline), kPipelines);
    link.sending = *mode;
  }
  if (!compress.empty()) {
    const auto codec = replicator::codec_named(compress);
    if (!codec) return fail(Exit::usage, "no such compression", printable(compress), kCodecs);
    link.codec = *codec;
  }
  return link;
}

Result<Config> load_config(const std::string& file) {
  SOMFS_TRY_ASSIGN(const std::string text, read_config(file));
  return parse_config(text, file);
}

Result<MirrordConfig> parse_mirrord_config(const std::string& text, const std::string& file) {
  MirrordConfig c;
  SOMFS_TRY_ASSIGN(const toml::table root, parse_toml(text, file, {"mirrord", "limits", "watch", "forward"}));
  if (const toml::node* f = root.get("forward"); f != nullptr && !f->is_array_of_tables())
    return fail(Exit::configuration, "bad configuration", file, "forwards are written [[forward]]", "see somfs.conf(5)");
  Section daemon(root["mirrord"].as_table(), "mirrord", file);
  SOMFS_TRY(daemon.text("listen", &c.listen));
  SOMFS_TRY(daemon.text("store", &c.store));
  SOMFS_TRY(daemon.text("log", &c.log));
  SOMFS_TRY(daemon.text("user", &c.user));
  std::string pipeline;
  SOMFS_TRY(daemon.text("pipeline", &pipeline));
  if (!pipeline.empty()) {
    const auto mode = replicator::pipeline_mode(pipeline);
    if (!mode) return daemon.wrong("pipeline", kPipelines);
    c.pipeline = *mode;
  }
  SOMFS_TRY(daemon.share("brake", &c.brake));
  SOMFS_TRY(daemon.count("threads", &c.threads, kMostThreads));
  SOMFS_TRY(daemon.done());
  Section limits(root["limits"].as_table(), "limits", file);
  SOMFS_TRY(limits.count("connections", &c.connections, 4096));
  SOMFS_TRY(limits.count("handshakes", &c.handshakes, 4096));
  SOMFS_TRY(limits.quantity("handshake", &c.handshake_s, parse_seconds));
  if (!(c.handshake_s >= 1 && c.handshake_s <= 600)) return limits.wrong("handshake", "between 1s and 10m is expected");
  SOMFS_TRY(limits.done());
  Section watch(root["watch"].as_table(), "watch", file);
  SOMFS_TRY(watch.quantity("suspect_after", &c.watch.silence.suspect_s, parse_seconds));
  SOMFS_TRY(watch.quantity("lost_after", &c.watch.silence.lost_s, parse_seconds));
  if (const std::string wrong = c.watch.silence.problem(); !wrong.empty()) return watch.wrong("lost_after", wrong);
  SOMFS_TRY(watch.text("hook", &c.watch.hook));
  SOMFS_TRY(watch.quantity("hook_timeout", &c.watch.hook_s, parse_seconds));
  if (!(c.watch.hook_s >= 1 && c.watch.hook_s <= 3600)) return watch.wrong("hook_timeout", "between 1s and 1h is expected");
  SOMFS_TRY(watch.done());
  if (const toml::array* forwards = root["forward"].as_array()) {
    for (const auto& f : *forwards) {
      SOMFS_TRY_ASSIGN(ForwardConfig one, parse_forward(*f.as_table(), file));
      c.forwards.push_back(std::move(one));
    }
  }
  return c;
}

Result<MirrordConfig> load_mirrord_config(const std::string& file) {
  SOMFS_TRY_ASSIGN(const std::string text, read_config(file));
  return parse_mirrord_config(text, file);
}

std::string default_config_file(const std::string& dir) {
  const char* base = std::getenv("SOMFS_CONFIG_DIR");
  std::string name = dir.size() > 1 ? dir.substr(1) : "root";
  std::replace(name.begin(), name.end(), '/', '-');
  return std::string(base != nullptr && *base != '\0' ? base : "/etc/somfs") + "/" + name + ".conf";
}

}  // namespace somfs::cli
