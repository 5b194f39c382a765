// SPDX-License-Identifier: Apache-2.0
#include "replicator/sender.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include <fmt/format.h>

#include "common/bytes.h"
#include "common/printable.h"
#include "replicator/mirror.h"
#include "replicator/migration.h"
#include "replicator/plan.h"
#include "replicator/text_codes.h"

namespace somfs::replicator {
namespace {

constexpr int kAttempts = 16;   // each leaves out one more object that could not be read to its end

Hello hello_of(const Source& source, const char* wants, const MigrateOptions& options) {
  Hello h;
  h.volume = source.volume;
  h.generation = source.generation;
  h.ancestors = source.ancestors;
  h.wants = wants;
  h.host = options.host;
  h.volume_name = options.volume_name;
  return h;
}

std::unique_ptr<Migration> make(Run& run, const Choice& choice, bool by_path) {
  if (by_path) return make_comparison(run, false, true);
  switch (choice.strategy) {
    case Strategy::differential: return make_differential(run);
    case Strategy::gap_scan: return make_comparison(run, choice.by_content, false);
    case Strategy::full: break;
  }
  return make_full(run);
}

Result<std::unordered_map<ObjectId, StagedFile>> ask_staged(Link& link) {
  SOMFS_TRY(link.send(MessageType::staged, {}));
  SOMFS_TRY_ASSIGN(Message m, link.wait_for(MessageType::stages));
  std::vector<StagedRow> rows;
  if (!decode(m.body, &rows)) return fail(Exit::peer_version, "cannot talk to the mirror", {}, "its list of staged files is malformed");
  std::unordered_map<ObjectId, StagedFile> out;
  for (StagedRow& r : rows) out.emplace(r.object, StagedFile{r.size, r.mtime, r.ctime, std::move(r.hash)});
  return out;
}

// For a person: enough of a root to tell it from another.
std::string history_text(std::uint64_t epoch, const std::string& root) {
  constexpr std::size_t kShort = 8;
  return "epoch " + std::to_string(epoch) + (root.empty() ? std::string() : ", root " + hex(std::string_view(root).substr(0, kShort)));
}

// One group. False: it was given up because an object broke off in the middle; its id is in run.skip, and the group can be begun again.
Result<bool> attempt(Run& run, const Choice& choice, bool by_path, const std::string& previous, MigrateReport* report) {
  for (auto* count : {&run.progress.files, &run.progress.bytes, &run.progress.files_total, &run.progress.bytes_total}) *count = 0;
  auto migration = make(run, choice, by_path);
  run.progress.phase = "comparing";
  SOMFS_TRY(migration->ask());
  const bool dry = run.options.dry_run;
  if (!dry) {
    Begin begin;
    begin.base_epoch = choice.strategy == Strategy::differential ? run.source.base_epoch : 0;
    begin.epoch = run.source.epoch;
    begin.generation = run.source.generation;
    begin.strategy = report->strategy;
    begin.replace_all = migration->replaces_all();
    begin.confirmed = run.options.confirmed;
    begin.brake_share = run.options.brake_share;
    begin.excludes = run.excludes.joined();
    begin.previous = previous;
    run.history.emplace(run.source.volume, begin);
    SOMFS_TRY(run.link.send(MessageType::begin, encode(begin)));
  }
  run.progress.phase = "sending";
  Emitter out(run);
  Status sent = migration->send(out);
  if (sent) sent = out.flush();
  const auto torn = run.take_torn();
  if (!sent && !torn.empty()) {
    run.skip.insert(torn.begin(), torn.end());
    if (!dry) SOMFS_TRY(run.link.send(MessageType::abort, {}));
    return false;
  }
  SOMFS_TRY(sent);
  if (dry) return true;
  if (run.source.incomplete && (!run.skip.empty() || run.any_unreadable())) SOMFS_TRY(run.source.incomplete());
  run.progress.phase = "committing";
  report->root = run.history->root();
  SOMFS_TRY(run.link.send(MessageType::commit, report->root));
  return true;
}

tl::unexpected<Error> nonsense(const char* what) { return fail(Exit::peer_version, "cannot talk to the mirror", {}, what); }

}  // namespace

// The changes since what the mirror holds, which may be more than this side had noted.
Status resolve(Source& source, const Welcome& welcome) {
  if (!source.dirty_since) return {};
  if (!source.gap && welcome.generation == source.generation && welcome.epoch > source.base_epoch && welcome.epoch < source.epoch)
    source.base_epoch = welcome.epoch;
  SOMFS_TRY_ASSIGN(Changes changes, source.dirty_since(source.base_epoch));
  source.gap = source.gap || !changes.complete;
  source.dirty = std::move(changes.set);
  return {};
}

Status Session::greet(const Source& who, const MigrateOptions& options, const char* wants) {
  SOMFS_TRY_ASSIGN(welcome_, link_.greet(hello_of(who, wants, options)));
  greeted_ = who.volume;
  return {};
}

std::uint64_t Session::take_wire_bytes() {
  const std::uint64_t wire = transport_.bytes_sent() + transport_.bytes_received();
  return wire - std::exchange(counted_, wire);
}

Result<Session::Sent> Session::send(Tree& tree, const Source& asked, const MigrateOptions& options, Distrust distrust) {
  const auto begun = std::chrono::steady_clock::now();
  const StageSums before = transport_.stages();
  const double waited = link_.sending_s();
  Source source = asked;
  if (!states_all(welcome_, options)) SOMFS_TRY(resolve(source, welcome_));
  Sent sent;
  MigrateReport& report = sent.report;
  report.mirror = welcome_.mirror;
  report.epoch = source.epoch;
  if (welcome_.held && !options.confirmed) {
    report.held = true;
    report.held_reason = "an earlier epoch waits for a decision";
    return sent;
  }
  // What this side knows of what the mirror holds, or will before it gets to what follows: as it was sent in this conversation, or as it was kept.
  const bool here = sent_epoch_ != 0 && sent_epoch_ >= asked.base_epoch;
  const std::string own = here ? sent_root_ : asked.base_root;
  const Agreement agreement = compare_history(welcome_, source.generation, here ? sent_epoch_ : asked.base_epoch, own);
  SOMFS_TRY_ASSIGN(TreeFilePtr root, tree.root());
  SOMFS_TRY_ASSIGN(Choice choice, choose(source, welcome_, options, root->ref().id));
  root.reset();
  if ((distrust != Distrust::nothing || !options.repair.empty()) && choice.strategy == Strategy::differential) choice = {Strategy::gap_scan, source.compare_content};
  if (agreement == Agreement::differs) {
    const std::string how = fmt::format("it shows {}, kept was {}", history_text(welcome_.epoch, welcome_.root), history_text(asked.base_epoch, asked.base_root));
    if (options.want == MigrateOptions::Want::differential)
      return fail(Exit::temporary, "a differential migration is not possible", {}, "the mirror is not what it acknowledged: " + how, "leave --differential out");
    report.history_differs = true;
    report.notes.push_back("the mirror is not what it acknowledged (" + how + "): contents are compared");
    if (choice.strategy != Strategy::full) choice = {Strategy::gap_scan, true};
  }
  report.strategy = name_of(choice.strategy);
  if (choice.strategy == Strategy::differential && source.dirty->empty()) {
    // The mirror holds this state already, under the epoch it has: nothing is begun, and nothing need be synced.
    report.epoch = welcome_.epoch;
    if (agreement == Agreement::agrees) report.root = own;
    report.bytes_wire = take_wire_bytes();
    return sent;
  }
  const bool by_path = choice.strategy == Strategy::gap_scan && (welcome_.foreign_tree || distrust == Distrust::ids);
  // The chain goes on where the mirror's history is known and is built on: not where everything is stated or read anew.
  const bool builds = choice.strategy == Strategy::differential || (choice.strategy == Strategy::gap_scan && !choice.by_content && !by_path);
  const std::string previous = builds && agreement == Agreement::agrees ? own : std::string();
  std::unordered_map<ObjectId, StagedFile> staged;
  if (welcome_.staged != 0 && !options.dry_run) {
    SOMFS_TRY_ASSIGN(staged, ask_staged(link_));
  }
  std::unordered_set<ObjectId> skip;
  std::vector<std::string> unreadable;
  for (int i = 0;; ++i) {
    Run run(tree, source, options, progress_, link_);
    run.staged = std::move(staged);
    run.skip = skip;
    run.mirror_objects = welcome_.files;
    run.mirror_user = welcome_.user;
    auto done = attempt(run, choice, by_path, previous, &report);
    auto named = run.take_unreadable();
    unreadable.insert(unreadable.end(), named.begin(), named.end());
    SOMFS_TRY(done);
    if (!*done && i + 1 < kAttempts) {
      skip = std::move(run.skip);
      staged = std::move(run.staged);
      continue;
    }
    if (!*done) return fail(Exit::temporary, "cannot migrate", {}, "too many files break off while they are read: " + unreadable.back());
    if (run.foreign_owners) report.notes.push_back(kNoOwners);
    report.files = run.files;
    report.names = run.names;
    report.subtrees = run.subtrees;
    report.compared = run.compared;
    if (options.dry_run) report.removed = run.removed;
    report.bytes_source = run.bytes_source;
    report.bytes[static_cast<std::size_t>(Stage::group)] = run.bytes_source;
    for (Stage stage : {Stage::decompress, Stage::write, Stage::acknowledge, Stage::apply}) report.bytes[static_cast<std::size_t>(stage)] = run.bytes_records;
    report.bytes_wire = options.dry_run ? run.bytes_records.load() : take_wire_bytes();
    break;
  }
  std::sort(unreadable.begin(), unreadable.end());
  unreadable.erase(std::unique(unreadable.begin(), unreadable.end()), unreadable.end());
  report.unreadable = std::move(unreadable);
  report.how = transport_.how_sent();
  const StageSums sums = transport_.stages() - before;
  for (Stage stage : {Stage::compress, Stage::encrypt, Stage::send}) {
    report.times[static_cast<std::size_t>(stage)] = sums.wall[static_cast<std::size_t>(stage)];
    report.bytes[static_cast<std::size_t>(stage)] = sums.bytes_in[static_cast<std::size_t>(stage)];
  }
  for (Stage stage : {Stage::transfer, Stage::decrypt}) report.bytes[static_cast<std::size_t>(stage)] = sums.bytes_out[static_cast<std::size_t>(Stage::send)];
  const auto over = std::chrono::steady_clock::now();
  report.sent_s = std::chrono::duration<double>(over - begun).count();
  // What this side did beside handing messages over.
  report.times[static_cast<std::size_t>(Stage::group)] = std::max(0.0, report.sent_s - (link_.sending_s() - waited));
  if (options.dry_run) return sent;
  sent.asked = true;
  uncommitted_.push_back({report, over});
  welcome_.volume = source.volume;
  welcome_.generation = source.generation;
  welcome_.epoch = sent_epoch_ = report.epoch;
  welcome_.root = sent_root_ = report.root;
  welcome_.foreign_tree = false;
  welcome_.staged = 0;
  return sent;
}

Result<Session::Verdict> Session::verdict() {
  SOMFS_TRY_ASSIGN(Message m, link_.wait_for_verdict());
  Verdict v;
  v.applied = m.type == MessageType::applied;
  auto& expected = v.applied ? unapplied_ : uncommitted_;
  // An epoch is applied before the next one is committed.
  if (expected.empty() || (!v.applied && !unapplied_.empty())) return nonsense("it speaks of an epoch that it was not sent");
  Pending pending = std::move(expected.front());
  expected.pop_front();
  MigrateReport& report = pending.report;
  report.bytes_wire += take_wire_bytes();
  if (v.applied) {
    Applied applied;
    if (!decode(m.body, &applied) || applied.epoch != report.epoch) return nonsense("its word that an epoch is applied is malformed, or of another one");
    report.times[static_cast<std::size_t>(Stage::apply)] = applied.seconds;
  } else {
    report.committed_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - pending.asked).count();
    Committed committed;
    if (!decode(m.body, &committed)) return nonsense("its answer to the commit is malformed");
    if (committed.epoch != report.epoch) return nonsense("it says that it committed another epoch than the one it was sent");
    if (committed.root != report.root) return nonsense("it says that it committed something else than it was sent");
    report.held = welcome_.held = committed.held;
    report.held_reason = printable(committed.reason);
    report.removed = committed.removed;
    report.created = committed.created;
    for (std::size_t i = kFirstOfBackup; i < kStages; ++i) report.times[i] = committed.times[i];
    welcome_.files += report.created;
    welcome_.files -= std::min(report.removed, welcome_.files);
    if (!report.held) unapplied_.push_back(pending);
  }
  v.report = std::move(report);
  return v;
}

Result<MigrateReport> Session::land(Tree& tree, const Source& source, const MigrateOptions& options, Distrust distrust) {
  SOMFS_TRY_ASSIGN(Sent sent, send(tree, source, options, distrust));
  if (!sent.asked) return std::move(sent.report);
  SOMFS_TRY_ASSIGN(Verdict v, verdict());
  if (v.report.held) return std::move(v.report);
  const auto committed = std::chrono::steady_clock::now();
  SOMFS_TRY_ASSIGN(v, verdict());
  v.report.committed_s += std::chrono::duration<double>(std::chrono::steady_clock::now() - committed).count();
  return std::move(v.report);
}

Result<MigrateReport> Session::relay(const Begin& sent, const std::function<Result<std::optional<std::string>>()>& next) {
  Begin begin = sent;
  // The origin's, where the mirror had every epoch as it came; after a comparison it has a chain of its own.
  if (!begin.previous.empty()) begin.previous = welcome_.root;
  SOMFS_TRY(link_.send(MessageType::begin, encode(begin)));
  EpochRoot history(greeted_, begin);
  for (;;) {
    SOMFS_TRY_ASSIGN(auto batch, next());
    if (!batch) break;
    std::string leaf = leaf_hash(*batch);
    history.add_leaf(leaf);
    SOMFS_TRY(link_.send(MessageType::records, std::move(*batch), std::move(leaf)));
  }
  MigrateReport report;
  report.root = history.root();
  SOMFS_TRY(link_.send(MessageType::commit, report.root));
  report.mirror = welcome_.mirror;
  report.epoch = begin.epoch;
  report.strategy = begin.strategy;
  uncommitted_.push_back({report, std::chrono::steady_clock::now()});
  SOMFS_TRY_ASSIGN(Verdict v, verdict());
  if (v.applied) return nonsense("it speaks of an epoch that it was not sent");
  if (v.report.held) return std::move(v.report);
  welcome_.volume = greeted_;
  welcome_.generation = begin.generation;
  welcome_.epoch = sent_epoch_ = begin.epoch;
  welcome_.root = sent_root_ = v.report.root;
  welcome_.foreign_tree = false;
  welcome_.staged = 0;
  SOMFS_TRY_ASSIGN(v, verdict());
  return std::move(v.report);
}

Result<MigrateReport> migrate_tree(Tree& tree, const Source& source, Transport& transport, const MigrateOptions& options, Progress& progress,
                                   Distrust distrust) {
  Session session(transport, progress);
  SOMFS_TRY(session.greet(source, options, options.wants));
  auto report = session.land(tree, source, options, distrust);
  if (report) session.bye();
  return report;
}

Result<MigrateReport> migrate(const Source& source, Transport& mirror, const MigrateOptions& options, Progress& progress) {
  auto tree = tree_of(*source.view);
  return migrate_tree(*tree, source, mirror, options, progress, Distrust::nothing);
}

Result<MigrateReport> migrate(const Source& source, const Connect& connect, const MigrateOptions& options, Progress& progress) {
  auto tree = tree_of(*source.view);
  for (Distrust distrust : {Distrust::nothing, Distrust::dirty_set, Distrust::ids}) {
    SOMFS_TRY_ASSIGN(auto transport, connect());
    auto report = migrate_tree(*tree, source, *transport, options, progress, distrust);
    // The mirror refused what it does not know. With less trust in what both sides seem to have in common it may work.
    const bool again = !report && report.error().exit == Exit::temporary && options.want == MigrateOptions::Want::automatic;
    if (!again || distrust == Distrust::ids) return report;
  }
  return fail(Exit::temporary, "cannot migrate");
}

Result<VerifyReport> verify(const Source& source, Transport& mirror, const VerifyOptions& options, Progress& progress) {
  auto tree = tree_of(*source.view);
  return verify_tree(*tree, source, mirror, options, progress);
}

}  // namespace somfs::replicator
