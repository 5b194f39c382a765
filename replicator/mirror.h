// SPDX-License-Identifier: Apache-2.0
// A mirror directory: `tree/`, plain files anyone can read, and `.somfs-mirror/` with state, catalog, staging and journal.
//
// How an epoch lands (invariants 1 and 7):
//   receive   new and rewritten objects are born under stage/, with their data; in-place changes, names and attributes go to journal/EPOCH
//   prepare   stage and journal are synced
//   commit    one SQLite transaction puts the catalog (name → object, object → our inode) and `committed = EPOCH` in place, durably.
//             Now the epoch is held: the acknowledgement goes out
//   apply     the journal is played onto tree/: every step acts only where a name still holds the object it expects, so it can be
//             repeated from the start at any time. Then sync, `applied = EPOCH`, and the journal goes
//   open      not committed: stage and journal are forgotten (stage kept for a resume). Committed and not applied: apply again
// After a crash at any system call, the mirror once opened is the old epoch or the new one.
// One Mirror object per directory at a time, enforced by a lock (Exit::locked). Not thread-safe but for the parts said.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/fd.h"
#include "common/result.h"
#include "common/uuid.h"
#include "replicator/group.h"
#include "replicator/wire.h"

namespace somfs::replicator {

class Spool;
class Tree;
struct Standing;

struct StagedRow {
  ObjectId object;
  std::uint64_t size = 0;
  Time mtime, ctime;
  std::string hash;     // SHA-256 of what is staged, computed when asked
};

// Body of a `stages` message.
std::string encode(const std::vector<StagedRow>& rows);
bool decode(std::string_view bytes, std::vector<StagedRow>* rows);

// A `listing` with this many rows is followed by another one for the same directory; one with fewer (or none) is its last.
inline constexpr std::size_t kListRows = 8192;

class Mirror {
 public:
  enum class Mode { create, existing };   // create: make the directory and its state when there is none
  // Refuses: a file instead of a directory, state it cannot make sense of (nothing is touched then), another process's lock.
  static Result<std::unique_ptr<Mirror>> open(const std::string& directory, Mode mode);
  ~Mirror();

  Welcome welcome() const;
  std::uint64_t committed_epoch() const;
  std::uint64_t applied_epoch() const;

  // A volume's first contact binds the mirror to it; another volume: Exit::not_allowed. A source whose generation is neither
  // the one that wrote last nor descends from it: Exit::person (split).
  Status greet(const Hello& hello);

  // Whoever speaks from now on may not release the brake: an epoch that says a person confirmed it is judged like any other, its share counts up
  // to `most_share`, and one that is held stays so.
  void restrain(double most_share);
  Status begin(const Begin& begin);
  Status receive(std::string_view records, std::string leaf = {});   // a batch of group records; `leaf`: its hash, where it is known already
  // Durable when it returns, and applied (unless held). `root`: the source's, of what it sent (replicator/history.h); another one than that of
  // what came: Exit::temporary, and nothing is committed. Empty: whoever calls vouches for what it handed over.
  // `acknowledge` is called in between: when it is durable (or held), before it is applied.
  Result<Committed> commit(std::string_view root = {}, const std::function<void(const Committed&)>& acknowledge = {});
  void abort() noexcept;

  // `perhaps`: of a directory it does not know it has no rows; else that is an error, for the source took it for known.
  Result<std::vector<ListRow>> list(const ObjectId& dir, bool perhaps = false);
  // Calls `piece` with parts of the librsync signature of the object's content.
  Status signature(const ObjectId& object, const std::function<Status(std::string_view)>& piece);
  Result<std::vector<StagedRow>> staged();
  // Walks tree/ as it is, reading everything: depth first, names in byte order, a directory before its entries. `deep`: from the
  // disk, what is in memory of a file is dropped first.
  Status inspect(const std::function<Status(InspectRow)>& row, bool deep = false);

  // From now on what is committed is kept there for the next mirrors (spool.h). Before the first begin().
  void forward(std::shared_ptr<Spool> spool);
  Standing standing() const;
  // The committed state, as a source would show it: objects go by the source's ids. While it is used nothing is begun, nor the mirror closed.
  // What is not as the catalog says is an error that ends a run (mirror_tree.cc).
  std::unique_ptr<Tree> tree();

  std::string held_reason() const;                     // empty: nothing is held
  // An epoch held by the brake: accepted (applied) or rejected (forgotten; the next migration compares with the catalog).
  Status decide_held(bool accept);

  Uuid generation() const;                             // of the source that wrote last; nil: nobody has
  // A person decided, of two sources that both were active, for the one with this generation: the other history, and what descends from it,
  // is refused from now on. The mirror's tree stays; the next epoch compares. It must be opened again. Exit::usage: there is nothing to decide.
  Status decide_split(const Uuid& right);

 private:
  struct Impl;
  explicit Mirror(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Called after a well-formed hello: the mirror it is for.
using OpenMirror = std::function<Result<std::unique_ptr<Mirror>>(const Hello& hello)>;
// The mirror's side of a conversation, until bye or a broken link. What the peer sends is checked before it is believed.
// A hello that does not come within `hello_within` ends the conversation.
Status serve(Transport& transport, const OpenMirror& open,
             std::chrono::milliseconds hello_within = std::chrono::seconds(60));

}  // namespace somfs::replicator
