// SPDX-License-Identifier: Apache-2.0
// The strategies of a migration. Each writes the records of one group; before send() nothing but questions has gone to the mirror.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "replicator/emit.h"

namespace somfs::replicator {

class Migration {
 public:
  virtual ~Migration() = default;
  virtual Status ask() { return {}; }            // what the mirror has to be asked before the group begins
  virtual bool replaces_all() const { return false; }
  virtual Status send(Emitter& out) = 0;
};

std::unique_ptr<Migration> make_full(Run& run);
std::unique_ptr<Migration> make_differential(Run& run);
// `by_path`: the mirror's tree was put there by nobody we know: what lies under the same path may serve as a basis.
std::unique_ptr<Migration> make_comparison(Run& run, bool by_content, bool by_path);

// Directories below which it is not known what changed, none beneath another; the dirty set tells the rest.
struct Scope {
  std::vector<PlacePtr> roots;
  std::vector<ObjectId> left;                                // outside of them: directories with dirty names
  std::unordered_set<ObjectId> inside;                       // what of the dirty set lies beneath the roots
  std::set<std::pair<ObjectId, std::string>> excluded;       // (directory, name)
};

// Compares and sends what is beneath the roots; the roots themselves, and that they exist at the mirror by then, is for the caller.
class ScopedComparison : public Migration {
 public:
  // After ask(): the mirror has it, not under the name it has in the view.
  virtual bool had_elsewhere(const ObjectId& id) const = 0;
  virtual std::uint64_t to_send() const = 0;                 // as far as known
};
std::unique_ptr<ScopedComparison> make_comparison(Run& run, Scope scope);

// A mirror that runs as `user` cannot have what belongs to `owner` belong to them.
inline bool keeps_owner(std::uint32_t user, std::uint32_t owner) { return user == 0 || user == owner; }
inline constexpr const char* kNoOwners = "the mirror does not run as root: what belongs to others belongs to its user there, without set-id bits";

// What an attempt before this one showed not to be common ground with the mirror.
enum class Distrust : std::uint8_t {
  nothing,
  dirty_set,   // the mirror does not know an object the dirty set takes for known: compare with its catalog
  ids,         // not even the root is known (another file system, restored from elsewhere): compare by path
};

// A conversation that lands one epoch after another: what was sent last is the base of the next, whether or not the mirror has said yet that it
// holds it; when it does not, it refuses what follows. After a failure the conversation is over. `transport` and `progress` are borrowed;
// `news` is called, on another thread, when a verdict has come and when none will come any more.
class Session {
 public:
  Session(Transport& transport, Progress& progress, std::function<void()> news = {})
      : transport_(transport), link_(transport, progress, std::move(news)), progress_(progress) {}

  Status greet(const Source& who, const MigrateOptions& options, const char* wants = kMigrate);
  bool held() const { return welcome_.held; }              // an epoch waits there for a person's decision

  struct Sent {
    MigrateReport report;                                  // as far as this side knows
    bool asked = false;                                    // verdicts will come; else nothing had to be sent, or it was a dry run
  };
  Result<Sent> send(Tree& tree, const Source& source, const MigrateOptions& options, Distrust distrust);
  // What the mirror says of the epochs it was sent, in their order: first that it holds one durably (or that the brake holds it), then that its
  // tree shows it. Waits for it.
  struct Verdict {
    bool applied = false;                                  // the second of the two
    MigrateReport report;                                  // complete; of the first, but for the time that applying takes
  };
  Result<Verdict> verdict();
  bool has_verdict() const { return link_.has_verdict(); }

  Result<MigrateReport> land(Tree& tree, const Source& source, const MigrateOptions& options, Distrust distrust);   // all of it
  const Welcome& welcome() const { return welcome_; }      // as it stands now
  // An epoch of another source as that one sent it, batch by batch; `next`: nullopt at its end. It is for the caller to know that the mirror stands where it
  // begins. Waits for both verdicts, but where it is held.
  Result<MigrateReport> relay(const Begin& begin, const std::function<Result<std::optional<std::string>>()>& next);
  void bye() { (void)link_.send(MessageType::bye, {}); }   // what is held there is held whether or not the mirror hears it
  void part(const char* how, std::chrono::milliseconds within) { link_.part(how, within); }
  bool broken() const { return link_.over(); }             // the mirror went away, or said that it gives up

 private:
  struct Pending {
    MigrateReport report;
    std::chrono::steady_clock::time_point asked;           // for its commit
  };
  std::uint64_t take_wire_bytes();

  Transport& transport_;
  Link link_;
  Progress& progress_;
  Welcome welcome_;
  std::deque<Pending> uncommitted_, unapplied_;            // oldest first; those that nothing was said of, and those that are committed
  std::uint64_t sent_epoch_ = 0;                           // the last one sent in this conversation, with its root
  std::string sent_root_;
  Uuid greeted_;                                           // the volume that was named
  std::uint64_t counted_ = 0;                              // bytes on the wire that a report has named
};

// As declared in sender.h, over any tree.
Result<MigrateReport> migrate_tree(Tree& tree, const Source& source, Transport& mirror, const MigrateOptions& options, Progress& progress,
                                   Distrust distrust);
Result<VerifyReport> verify_tree(Tree& tree, const Source& source, Transport& mirror, const VerifyOptions& options, Progress& progress);

}  // namespace somfs::replicator
