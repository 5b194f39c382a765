// SPDX-License-Identifier: Apache-2.0
// The life of a mirror: opening and recovery, epochs from begin to commit, the brake.
#include "replicator/mirror.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>

#include <fmt/format.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/printable.h"
#include "replicator/delta.h"
#include "replicator/brake.h"
#include "replicator/mirror_impl.h"
#include "replicator/mirror_inode.h"

namespace somfs::replicator {

namespace {

constexpr const char* kState = ".somfs-mirror";
constexpr std::uint64_t kAccepted = 60;             // seconds that a person's yes lasts
constexpr std::uint64_t kSpaceMargin = 4u << 20;    // left free for the catalog and directories when an epoch commits

Result<bool> exists(int dir, const char* name) {
  if (::faccessat(dir, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0) return true;
  if (errno == ENOENT) return false;
  return fail_errno("cannot look at", name);
}

Result<Fd> make_directory(int dir, const char* name, unsigned mode) {
  if (::mkdirat(dir, name, mode) != 0 && errno != EEXIST) return fail_errno("cannot create", name);
  Fd fd(::openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) return fail_errno("cannot open", name);
  return fd;
}

std::string raw_ancestors(const Hello& h) {
  std::string out;
  for (const Uuid& u : h.ancestors) out.append(u.raw());
  return out;
}

}  // namespace

// ---- opening ------------------------------------------------------------------------------------------------------------

Mirror::Mirror(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Mirror::~Mirror() { impl_->abort(); }

Result<std::unique_ptr<Mirror>> Mirror::open(const std::string& directory, Mode mode) {
  auto impl = std::make_unique<Impl>();
  SOMFS_TRY(impl->open(directory, mode));
  return std::unique_ptr<Mirror>(new Mirror(std::move(impl)));
}

Status Mirror::Impl::open(const std::string& path, Mode mode) {
  SOMFS_TRY(open_directory(path, mode));
  char resolved[PATH_MAX];
  if (::realpath(path.c_str(), resolved) == nullptr) return fail_errno("cannot resolve", printable(path));
  SOMFS_TRY_ASSIGN(bool has_catalog, exists(state.get(), "catalog.sqlite"));
  if (!has_catalog && mode == Mode::existing)
    return fail(Exit::configuration, "there is no mirror in", printable(path), {}, "migrate to it first");
  std::string catalog = std::string(resolved) + "/" + kState + "/catalog.sqlite";
  SOMFS_TRY_ASSIGN(writer, CatalogDb::open(catalog, true));
  SOMFS_TRY_ASSIGN(reader, CatalogDb::open(catalog, false));
  SOMFS_TRY(open_state());
  SOMFS_TRY(load_meta());
  SOMFS_TRY(recover());
  return leftovers.load(state.get());
}

Status Mirror::Impl::open_directory(const std::string& path, Mode mode) {
  const bool made = mode == Mode::create && ::mkdir(path.c_str(), 0755) == 0;
  if (mode == Mode::create && !made && errno != EEXIST) return fail_errno("cannot create the mirror directory", printable(path));
  directory = Fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory && errno == ENOTDIR)
    return fail(Exit::configuration, "cannot use as a mirror", printable(path), "it is not a directory");
  if (!directory && errno == ENOENT)
    return fail(Exit::configuration, "there is no mirror in", printable(path), "no such directory", "migrate to it first");
  if (!directory) return fail_errno("cannot open the mirror directory", printable(path));
  if (made) {
    // Its name is as durable as what will be acknowledged beneath it.
    Fd parent(::openat(directory.get(), "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!parent || ::fsync(parent.get()) != 0) return fail_errno("cannot sync the directory of the mirror", printable(path));
  }
  SOMFS_TRY_ASSIGN(bool has_state, exists(directory.get(), kState));
  SOMFS_TRY_ASSIGN(bool has_tree, exists(directory.get(), "tree"));
  if (!has_state && mode == Mode::existing)
    return fail(Exit::configuration, "there is no mirror in", printable(path), {}, "migrate to it first");
  if (!has_state && !has_tree) {
    bool empty = true;
    SOMFS_TRY(each_entry(directory.get(), [&](const std::string& name, std::uint64_t, unsigned char) -> Status {
      empty = empty && name == "lost+found";
      return {};
    }));
    if (!empty)
      return fail(Exit::configuration, "refusing to make a mirror in", printable(path), "it holds other files and no tree/",
                  "use an empty directory, or move an existing copy into its tree/");
  }
  SOMFS_TRY_ASSIGN(state, make_directory(directory.get(), kState, 0700));
  lock = Fd(::openat(state.get(), "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!lock) return fail_errno("cannot open the mirror's lock", printable(path));
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return fail(Exit::locked, "the mirror is in use by another process", printable(path));
    return fail_errno("cannot lock the mirror", printable(path));
  }
  return {};
}

Status Mirror::Impl::open_state() {
  // Default ACLs of the directory the mirror was put in must not colour what is staged.
  ::removexattr(proc_path(state.get()).c_str(), "system.posix_acl_default");
  SOMFS_TRY_ASSIGN(tree, make_directory(directory.get(), "tree", 0755));
  SOMFS_TRY_ASSIGN(stage, make_directory(state.get(), "stage", 0700));
  SOMFS_TRY_ASSIGN(journal, make_directory(state.get(), "journal", 0700));
  SOMFS_TRY_ASSIGN(std::string id, writer->meta("mirror"));
  if (id.empty()) SOMFS_TRY(initialize());
  return {};
}

Status Mirror::Impl::initialize() {
  SOMFS_TRY(writer->begin());
  SOMFS_TRY(writer->set_meta("mirror", Uuid::random().raw()));
  SOMFS_TRY(adopt());
  SOMFS_TRY(writer->commit());
  if (::fsync(state.get()) != 0 || ::fsync(directory.get()) != 0) return fail_errno("cannot sync the mirror directory");
  return {};
}

// Rows for what tree/ holds, under ids of our own making.
Status Mirror::Impl::adopt() {
  SOMFS_TRY_ASSIGN(Inode top, inode_of(tree.get()));
  ObjectRow root;
  root.row = kRootRow;
  root.kind = Kind::dir;
  root.inode = top.id;
  SOMFS_TRY(writer->put(root));
  TreePaths paths(tree.get(), stage.get(), *writer);
  std::vector<Row> left{kRootRow};
  Row next = kRootRow + 1;
  while (!left.empty()) {
    Row at = left.back();
    left.pop_back();
    SOMFS_TRY_ASSIGN(auto dir, paths.directory(at));
    if (!dir) return fail(Exit::temporary, "the mirror's tree changed while it was read");
    Status walked = each_entry(dir->get(), [&](const std::string& name, std::uint64_t, unsigned char) -> Status {
      SOMFS_TRY_ASSIGN(auto found, look(dir->get(), name));
      if (!found) return {};
      SOMFS_TRY_ASSIGN(auto known, writer->by_inode(found->id));
      ObjectRow o = known.value_or(ObjectRow{});
      if (!known) {
        o.row = next++;
        o.id = {found->id.ino, kSyntheticBirth};
        o.kind = found->attr.kind;
        o.inode = found->id;
        o.size = found->attr.size;
        o.mtime = found->attr.mtime;
        SOMFS_TRY(writer->put(o));
        if (o.kind == Kind::dir) left.push_back(o.row);
      }
      return writer->bind(at, name, o.row, 0);
    });
    SOMFS_TRY(walked);
  }
  return writer->set_number("foreign", next > kRootRow + 1 ? 1 : 0);
}

Status Mirror::Impl::load_meta() {
  SOMFS_TRY_ASSIGN(std::string text, writer->meta("mirror"));
  mirror = Uuid::from_raw(text);
  SOMFS_TRY_ASSIGN(text, writer->meta("volume"));
  volume = text.empty() ? Uuid{} : Uuid::from_raw(text);
  SOMFS_TRY_ASSIGN(text, writer->meta("generation"));
  generation = text.empty() ? Uuid{} : Uuid::from_raw(text);
  SOMFS_TRY_ASSIGN(ancestors, writer->meta("ancestors"));
  SOMFS_TRY_ASSIGN(fenced, writer->meta("fenced"));
  SOMFS_TRY_ASSIGN(host, writer->meta("host"));
  SOMFS_TRY_ASSIGN(committed, writer->number("committed"));
  SOMFS_TRY_ASSIGN(applied, writer->number("applied"));
  SOMFS_TRY_ASSIGN(held, writer->number("held"));
  SOMFS_TRY_ASSIGN(held_reason, writer->meta("held_reason"));
  SOMFS_TRY_ASSIGN(history_root, writer->meta("root"));
  if (history_root.size() != kHash) history_root.clear();
  SOMFS_TRY_ASSIGN(run, writer->number("run"));
  SOMFS_TRY_ASSIGN(std::uint64_t flag, writer->number("pending"));
  pending = flag != 0;
  SOMFS_TRY_ASSIGN(flag, writer->number("foreign"));
  foreign = flag != 0;
  return {};
}

Status Mirror::Impl::recover() {
  SOMFS_TRY_ASSIGN(std::uint64_t rescan, writer->number("rescan"));
  if (rescan != 0) {
    log::warning("the mirror's catalog is built anew from its tree: the next migration compares");
    SOMFS_TRY(writer->begin());
    SOMFS_TRY(writer->forget_all());
    SOMFS_TRY(empty_stage());
    SOMFS_TRY(adopt());
    for (const char* key : {"committed", "applied", "pending", "held", "rescan"}) SOMFS_TRY(writer->set_number(key, 0));
    SOMFS_TRY(writer->set_meta("root", ""));
    SOMFS_TRY(writer->commit());
    SOMFS_TRY(load_meta());
  }
  if (pending) {
    if (Status s = apply_pending(); !s) {
      // Not the system's doing: playing it again would not help.
      if (s.error().sys == 0 && s.error().exit == Exit::temporary) {
        SOMFS_TRY(writer->begin());
        SOMFS_TRY(writer->set_number("rescan", 1));
        SOMFS_TRY(writer->commit());
      }
      return s;
    }
  }
  std::vector<std::string> interrupted;
  SOMFS_TRY(each_entry(journal.get(), [&](const std::string& name, std::uint64_t, unsigned char) -> Status {
    if (held == 0 || name != std::to_string(held)) interrupted.push_back(name);
    return {};
  }));
  if (held != 0) return {};
  for (const std::string& redo : interrupted) {
    Status aside = give_up(redo, true);
    if (!aside && aside.error().exit == Exit::no_space) aside = give_up(redo, false);
    SOMFS_TRY(aside);
  }
  return empty_stage();
}

Status Mirror::Impl::give_up(const std::string& redo, bool keep) {
  if (keep) {
    SOMFS_TRY(Leftovers::put_aside(state.get(), redo));
    SOMFS_TRY_ASSIGN(stage, make_directory(state.get(), "stage", 0700));
    return leftovers.load(state.get());
  }
  SOMFS_TRY(empty_stage());
  if (::unlinkat(journal.get(), redo.c_str(), 0) != 0 && errno != ENOENT) return fail_errno("cannot remove the mirror's redo list");
  return leftovers.clear(state.get());
}

Status Mirror::Impl::empty_stage() {
  std::vector<std::string> names;
  SOMFS_TRY(each_entry(stage.get(), [&](const std::string& name, std::uint64_t, unsigned char) -> Status {
    names.push_back(name);
    return {};
  }));
  for (const std::string& name : names) SOMFS_TRY(remove_tree(stage.get(), name));
  return {};
}

Status Mirror::Impl::apply_pending() {
  std::string redo = std::to_string(committed);
  SOMFS_TRY_ASSIGN(const std::string widened, writer->meta("widened"));
  bool kept = !widened.empty();
  auto keep = [&](const TreePaths::Modes& modes) -> Status {
    kept = true;
    SOMFS_TRY(writer->begin());
    SOMFS_TRY(writer->set_meta("widened", TreePaths::text_of(modes)));
    return writer->commit();
  };
  SOMFS_TRY(reader->begin_reading());
  Status played = Apply(*reader, tree.get(), stage.get(), journal.get(), redo).run(TreePaths::modes_of(widened), keep);
  reader->rollback();
  SOMFS_TRY(played);
  SOMFS_TRY(writer->begin());
  if (kept) SOMFS_TRY(writer->set_meta("widened", ""));
  SOMFS_TRY(writer->set_number("applied", committed));
  SOMFS_TRY(writer->set_number("pending", 0));
  SOMFS_TRY(writer->commit());
  applied = committed;
  pending = false;
  if (::unlinkat(journal.get(), redo.c_str(), 0) != 0 && errno != ENOENT)
    return fail_errno("cannot remove the mirror's redo list");
  return leftovers.clear(state.get());
}

// ---- who it is ----------------------------------------------------------------------------------------------------------

Welcome Mirror::welcome() const {
  Welcome w;
  w.mirror = impl_->mirror;
  w.volume = impl_->volume;
  w.generation = impl_->generation;
  w.epoch = impl_->committed;
  w.foreign_tree = impl_->foreign;
  w.staged = impl_->leftovers.count();
  w.files = impl_->reader->objects().value_or(1) - 1;
  w.held = impl_->held != 0;
  w.user = ::geteuid();
  w.root = impl_->history_root;
  return w;
}

std::uint64_t Mirror::committed_epoch() const { return impl_->committed; }
std::uint64_t Mirror::applied_epoch() const { return impl_->applied; }

Status Mirror::Impl::usable() const { return dead ? Status(pass_on(*dead)) : Status(); }

// Back through its history, the newest first, to where the mirror stands; not beyond a history that a person decided against.
bool Mirror::Impl::follows(const Hello& source) const {
  auto stands = [&](const Uuid& u) { return u == generation; };
  auto decided = [&](const Uuid& u) {
    for (std::size_t at = 0; at < fenced.size(); at += u.bytes.size())
      if (std::string_view(fenced).substr(at, u.bytes.size()) == u.raw()) return true;
    return false;
  };
  if (stands(source.generation)) return true;
  if (decided(source.generation)) return false;
  for (auto at = source.ancestors.rbegin(); at != source.ancestors.rend(); ++at) {
    if (stands(*at)) return true;
    if (decided(*at)) return false;
  }
  return false;
}

Status Mirror::greet(const Hello& hello) {
  Impl& m = *impl_;
  SOMFS_TRY(m.usable());
  if (m.volume && hello.volume != m.volume)
    return fail(Exit::not_allowed, "this mirror belongs to another volume", m.volume.text(), "the source is " + hello.volume.text(),
                "use another directory for this volume");
  if (m.generation && !m.follows(hello))
    return fail(Exit::person, "this mirror was written by a source that is no ancestor of this one", m.generation.text(),
                "both sides may have been active", "decide which side is right: somfs-ctl split resolve");
  m.hello = hello;
  return {};
}

void Mirror::restrain(double most_share) { impl_->most_share = most_share; }

// ---- an epoch -----------------------------------------------------------------------------------------------------------

Status Mirror::begin(const Begin& begin) {
  Impl& m = *impl_;
  SOMFS_TRY(m.usable());
  if (m.epoch) return fail(Exit::temporary, "an epoch was begun already");
  if (begin.epoch == 0) return fail(Exit::temporary, "refusing an epoch without a number");
  if (m.held != 0) {
    if (!begin.confirmed || m.most_share)
      return fail(Exit::person, "epoch " + std::to_string(m.held) + " waits for a decision", {}, m.held_reason,
                  m.most_share ? "at the mirror: somfs-ctl held accept or reject" : "somfs-ctl held accept or reject; or migrate again, confirmed");
    SOMFS_TRY(m.decide_held(false));
  }
  if (begin.strategy == "differential" && begin.base_epoch != m.committed)
    return fail(Exit::temporary, "the mirror holds another epoch than the one this difference starts from",
                std::to_string(m.committed), "the difference starts from " + std::to_string(begin.base_epoch), "compare with the catalog");
  if (!begin.previous.empty() && begin.previous != m.history_root)
    return fail(Exit::temporary, "the mirror has another history than the one this epoch continues", std::to_string(m.committed), {}, "compare with the catalog");
  RedoHead head{begin.epoch, m.hello.volume, begin.generation, raw_ancestors(m.hello), m.hello.host, begin.excludes};
  SOMFS_TRY(m.writer->begin());
  auto opened = [&]() -> Status {
    SOMFS_TRY_ASSIGN(Row last, m.writer->last_row());
    SOMFS_TRY_ASSIGN(RedoWriter redo, RedoWriter::create(m.journal.get(), std::to_string(begin.epoch), head));
    m.epoch.reset(new Impl::Epoch{begin, m.run + 1, std::move(redo), TreePaths(m.tree.get(), m.stage.get(), *m.writer),
                                  TreePaths(m.tree.get(), m.stage.get(), *m.reader), {}, {}, EpochRoot(m.hello.volume, begin)});
    Impl::Epoch& e = *m.epoch;
    e.play.emplace(*m.writer, e.run, last + 1);
    e.receiver.emplace(Receiver::Parts{m.writer.get(), m.reader.get(), &e.paths, &e.committed, &e.redo, &*e.play,
                                       [&m](const ObjectId& id) { return m.leftovers.find(id); }, last + 1, begin.replace_all});
    return {};
  }();
  if (!opened) m.writer->rollback();
  else if (m.spool) m.spool->begin(begin);
  return opened;
}

Status Mirror::receive(std::string_view records, std::string leaf) {
  SOMFS_TRY(impl_->usable());
  if (!impl_->epoch) return fail(Exit::temporary, "records came before an epoch was begun");
  if (leaf.empty()) impl_->epoch->history.add(records);
  else impl_->epoch->history.add_leaf(std::move(leaf));
  Status s = impl_->epoch->receiver->take(records);
  if (!s) impl_->abort(s.error().exit != Exit::no_space);
  else if (impl_->spool) impl_->spool->take(records);
  return s;
}

Result<Committed> Mirror::commit(std::string_view root, const std::function<void(const Committed&)>& acknowledge) {
  SOMFS_TRY(impl_->usable());
  if (!impl_->epoch) return fail(Exit::temporary, "a commit came before an epoch was begun");
  if (!root.empty() && root != impl_->epoch->history.root()) {
    impl_->abort();
    return fail(Exit::temporary, "refusing an epoch that did not come as it was sent", {}, "its root is another one than the source's", "send it again");
  }
  const std::int64_t start = SystemClock().mono_ns();
  auto result = impl_->commit([&](Committed& c) {
    c.times[static_cast<std::size_t>(Stage::acknowledge)] = static_cast<double>(SystemClock().mono_ns() - start) / 1e9;
    if (acknowledge) acknowledge(c);
  });
  if (!result) impl_->abort(result.error().exit != Exit::no_space);
  return result;
}

// Why the epoch is to be held; empty: it is not.
Result<std::string> Mirror::Impl::brake(const Begin& begin, const CatalogPlay& play) {
  const bool confirmed = begin.confirmed && !most_share;
  const double share = std::min(begin.brake_share, most_share.value_or(1));
  const char* const powerless = most_share && (begin.confirmed || share < begin.brake_share)
                                    ? "; this source may not release the brake, that takes the right confirm at the mirror" : "";
  if (confirmed) SOMFS_TRY(writer->set_meta("peaks", ""));   // a person has seen what was there
  if (confirmed || share >= 1 || play.removed == 0) return std::string();
  const std::uint64_t before = reader->objects().value_or(1) - 1, after = writer->objects().value_or(1) - 1;
  // Onto a tree no migration made everything comes anew: what counts is what nothing replaces.
  std::uint64_t removed = !foreign ? play.removed : play.removed - std::min(play.removed, play.created);
  auto old_root = reader->children(kRootRow);
  auto new_root = writer->children(kRootRow);
  if (old_root && new_root && !old_root->empty() && new_root->empty())
    return fmt::format("the source's root is empty, the mirror holds {} objects{}", before, powerless);
  // The decision on a held epoch covers what its source removed while it was held, which comes next.
  const std::uint64_t now = static_cast<std::uint64_t>(::time(nullptr)), decided = writer->number("accepted").value_or(0);
  if (now >= decided && now - decided < kAccepted) return std::string();
  Peaks peaks = Peaks::parse(writer->meta("peaks").value_or(std::string()));
  peaks.add(::time(nullptr), before);
  if (std::string why = replicator::brake(removed, before, after, foreign ? 0 : peaks.most(::time(nullptr)), share); !why.empty()) return why + powerless;
  // Only where it removes something can what it held before have been a peak.
  SOMFS_TRY(writer->set_meta("peaks", peaks.text()));
  return std::string();
}

Status Mirror::Impl::check_space(std::uint64_t in_place) {
  struct statvfs v;
  if (::fstatvfs(stage.get(), &v) != 0) return fail_errno("cannot ask for the mirror's free space");
  std::uint64_t free = static_cast<std::uint64_t>(::geteuid() == 0 ? v.f_bfree : v.f_bavail) * v.f_frsize;
  if (free < in_place + kSpaceMargin)
    return fail(Exit::no_space, "no room at the mirror to apply this epoch", {}, fmt::format("{} bytes are needed", in_place + kSpaceMargin),
                "make room; the mirror still holds the epoch before");
  return {};
}

Result<Committed> Mirror::Impl::commit(const Acknowledge& acknowledge) {
  Epoch& e = *epoch;
  SOMFS_TRY(e.receiver->finish());
  if (e.begin.replace_all) {
    SOMFS_TRY_ASSIGN(auto gone, writer->not_stated(static_cast<std::int64_t>(e.run)));
    for (auto& [parent, name] : gone) {
      RedoOp op;
      op.type = RedoOp::Type::name;
      op.parent = parent;
      op.name = std::move(name);
      SOMFS_TRY(e.play->play(op));
      SOMFS_TRY(e.redo.add(op));
    }
  }
  SOMFS_TRY(e.play->settle());
  bool something = e.redo.operations() > 0;
  RedoHead head{e.begin.epoch, hello.volume, e.begin.generation, raw_ancestors(hello), hello.host, e.begin.excludes};
  if (something) {
    SOMFS_TRY(check_space(e.redo.in_place_bytes()));
    SOMFS_TRY(e.receiver->sync());
    SOMFS_TRY(e.redo.finish());
    if (::fsync(journal.get()) != 0) return fail_errno("cannot sync the mirror's redo list");
  }
  if (spool) spool->seal();   // before the commit: what was committed can be forwarded after any crash
  if (something) {
    SOMFS_TRY_ASSIGN(const std::string why, brake(e.begin, *e.play));
    if (!why.empty()) {
      Committed c{e.begin.epoch, true, why, e.play->removed, e.play->created, e.play->changed, {}, e.history.root()};
      writer->rollback();
      SOMFS_TRY(writer->begin());
      SOMFS_TRY(writer->set_number("held", e.begin.epoch));
      SOMFS_TRY(writer->set_meta("held_reason", why));
      SOMFS_TRY(writer->set_meta("held_root", c.root));
      if (Status s = writer->commit(); !s) {
        dead = s.error();
        return pass_on(*dead);
      }
      held = e.begin.epoch;
      held_reason = why;
      epoch.reset();
      if (spool) spool->leave();
      acknowledge(c);
      return c;
    }
  }
  auto landed = land(head, something, *e.play, e.history.root(), acknowledge);
  if (landed && spool) spool->committed(standing());
  return landed;
}

Status Mirror::Impl::write_meta(const RedoHead& head, bool something, const std::string& root_of_it) {
  if (head.volume) SOMFS_TRY(writer->set_meta("volume", head.volume.raw()));
  SOMFS_TRY(writer->set_meta("generation", head.generation.raw()));
  SOMFS_TRY(writer->set_meta("ancestors", head.ancestors));
  SOMFS_TRY(writer->set_meta("host", head.host));
  SOMFS_TRY(writer->set_meta("excludes", head.excludes));
  SOMFS_TRY(writer->set_meta("root", root_of_it));
  SOMFS_TRY(writer->set_number("committed", head.epoch));
  SOMFS_TRY(writer->set_number("pending", something ? 1 : 0));
  if (!something) SOMFS_TRY(writer->set_number("applied", head.epoch));
  SOMFS_TRY(writer->set_number("held", 0));
  SOMFS_TRY(writer->set_number("foreign", 0));
  return writer->set_number("run", run + 1);
}

// The commit point, then the acknowledgement, then the tree.
Result<Committed> Mirror::Impl::land(const RedoHead& head, bool something, const CatalogPlay& play, const std::string& root_of_it, const Acknowledge& acknowledge) {
  Committed c{head.epoch, false, {}, play.removed, play.created, play.changed, {}, root_of_it};
  SOMFS_TRY(write_meta(head, something, root_of_it));
  auto landed = [&]() -> Status {
    SOMFS_TRY(writer->commit());
    SOMFS_TRY(load_meta());
    acknowledge(c);
    if (something) {
      const std::int64_t start = SystemClock().mono_ns();
      SOMFS_TRY(apply_pending());
      c.times[static_cast<std::size_t>(Stage::apply)] = static_cast<double>(SystemClock().mono_ns() - start) / 1e9;
      return {};
    }
    ::unlinkat(journal.get(), std::to_string(head.epoch).c_str(), 0);
    return {};
  }();
  if (!landed) {
    // Whether the commit reached the disk, and how far the tree is: only opening again tells. Stage and journal stay as they are.
    dead = landed.error();
    return pass_on(*dead);
  }
  epoch.reset();
  return c;
}

void Mirror::Impl::abort(bool keep) noexcept {
  if (!epoch) return;
  std::string redo = std::to_string(epoch->begin.epoch);
  if (dead) {  // unknown or committed: nothing is touched before it is opened again
    if (spool) spool->leave();
    epoch.reset();
    writer->rollback();
    return;
  }
  if (spool) spool->forget();
  (void)epoch->redo.flush();
  epoch.reset();
  writer->rollback();
  Status s = give_up(redo, keep);
  if (!s) dead = s.error();
}

void Mirror::abort() noexcept { impl_->abort(); }

std::string Mirror::held_reason() const { return impl_->held != 0 ? impl_->held_reason : std::string(); }

Uuid Mirror::generation() const { return impl_->generation; }

// Object ids and epochs of two histories may be alike by chance: what the catalog says is forgotten, so that the next epoch compares the tree.
Status Mirror::decide_split(const Uuid& right) {
  constexpr std::size_t kMostFenced = 256;
  Impl& m = *impl_;
  SOMFS_TRY(m.usable());
  if (m.epoch) return fail(Exit::temporary, "an epoch is under way");
  if (m.held != 0) return fail(Exit::person, "epoch " + std::to_string(m.held) + " waits for a decision", {}, m.held_reason, "somfs-ctl held accept or reject first");
  if (!m.generation || right == m.generation) return fail(Exit::usage, "there is no split to resolve", {}, "the mirror goes with this source already");
  const std::size_t one = right.bytes.size();
  std::string fenced(m.generation.raw());
  for (std::size_t at = 0; at < m.fenced.size() && fenced.size() < kMostFenced * one; at += one)
    if (const auto u = std::string_view(m.fenced).substr(at, one); u != right.raw() && u != m.generation.raw()) fenced += u;
  auto decided = [&]() -> Status {
    SOMFS_TRY(m.writer->set_meta("fenced", fenced));
    SOMFS_TRY(m.writer->set_meta("generation", right.raw()));
    SOMFS_TRY(m.writer->set_number("rescan", 1));
    return m.writer->commit();
  };
  SOMFS_TRY(m.writer->begin());
  const Status done = decided();
  if (!done) m.writer->rollback();
  m.dead = Error{Exit::temporary, 0, "a split was resolved", {}, {}, "open the mirror again"};
  return done;
}

Status Mirror::decide_held(bool accept) {
  SOMFS_TRY(impl_->usable());
  return impl_->decide_held(accept);
}

Status Mirror::Impl::decide_held(bool accept) {
  if (held == 0) return fail(Exit::usage, "no epoch of this mirror waits for a decision");
  std::string redo = std::to_string(held);
  if (!accept) {
    SOMFS_TRY(writer->begin());
    SOMFS_TRY(writer->set_number("held", 0));
    SOMFS_TRY(writer->commit());
    held = 0;
    if (::unlinkat(journal.get(), redo.c_str(), 0) != 0 && errno != ENOENT)
      return fail_errno("cannot remove the mirror's redo list");
    realign();
    return empty_stage();
  }
  SOMFS_TRY(writer->begin());
  auto landed = [&]() -> Status {
    SOMFS_TRY_ASSIGN(Row last, writer->last_row());
    CatalogPlay play(*writer, run + 1, last + 1);
    RedoHead head;
    SOMFS_TRY(read_redo(journal.get(), redo, true, &head, [&](const RedoOp& op) { return play.play(op); }));
    SOMFS_TRY(play.settle());
    SOMFS_TRY(writer->set_meta("peaks", ""));
    SOMFS_TRY(writer->set_number("accepted", static_cast<std::uint64_t>(::time(nullptr))));
    SOMFS_TRY_ASSIGN(std::string of_it, writer->meta("held_root"));
    if (of_it.size() != kHash) of_it.clear();
    auto done = land(head, true, play, of_it, [](Committed&) {});
    return done ? Status() : Status(pass_on(done.error()));
  }();
  if (!landed) writer->rollback();
  else realign();
  return landed;
}

// ---- what it holds ------------------------------------------------------------------------------------------------------

Result<std::vector<ListRow>> Mirror::list(const ObjectId& dir, bool perhaps) {
  SOMFS_TRY(impl_->usable());
  Row row = kRootRow;
  if (dir) {
    SOMFS_TRY_ASSIGN(auto object, impl_->reader->by_id(dir));
    if (!object && perhaps) return std::vector<ListRow>();
    if (!object)
      return fail(Exit::temporary, "the mirror does not know directory", std::to_string(dir.ino) + "." + std::to_string(dir.birth));
    row = object->row;
  }
  SOMFS_TRY_ASSIGN(auto children, impl_->reader->children(row));
  std::vector<ListRow> rows;
  rows.reserve(children.size());
  for (Child& c : children)
    rows.push_back({std::move(c.name), c.object.id, c.object.kind, c.object.size, c.object.mtime, c.object.ctime, c.object.attr_hash});
  return rows;
}

Status Mirror::signature(const ObjectId& object, const std::function<Status(std::string_view)>& piece) {
  SOMFS_TRY(impl_->usable());
  SOMFS_TRY_ASSIGN(auto row, impl_->reader->by_id(object));
  SharedFd fd;
  if (row && row->kind == Kind::file) {
    TreePaths paths(impl_->tree.get(), impl_->stage.get(), *impl_->reader);
    SOMFS_TRY_ASSIGN(fd, paths.open(*row, O_RDONLY));
  }
  if (!fd)
    return fail(Exit::temporary, "the mirror has no content of object", std::to_string(object.ino) + "." + std::to_string(object.birth));
  auto read = [&](char* to, std::size_t n, std::uint64_t off) -> Result<std::size_t> {
    std::size_t got = 0;
    if (int e = pread_all(fd->get(), to, n, off, &got); e != 0) return fail_errno("cannot read a file of the mirror", {}, e);
    return got;
  };
  return make_signature(signature_shape(row->size), row->size, read, piece);
}

Result<std::vector<StagedRow>> Mirror::staged() {
  SOMFS_TRY(impl_->usable());
  return impl_->leftovers.rows();
}

}  // namespace somfs::replicator
