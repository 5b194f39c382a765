// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "replicator/mirror_impl.h"
#include "replicator/mirror_inode.h"

namespace somfs::replicator {

namespace {

constexpr std::size_t kMostRuns = 16;

Result<std::vector<std::string>> run_names(int state) {
  std::vector<std::string> names;
  Fd dir = open_beneath(state, "resume", O_RDONLY | O_DIRECTORY);
  if (!dir) return names;
  SOMFS_TRY(each_entry(dir.get(), [&](const std::string& name, std::uint64_t, unsigned char) -> Status {
    names.push_back(name);
    return {};
  }));
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

Status Leftovers::load(int state) {
  state_ = state;
  runs_.clear();
  files_.clear();
  SOMFS_TRY_ASSIGN(auto names, run_names(state));
  for (const std::string& name : names) {
    Run run;
    run.directory = "resume/" + name;
    std::size_t index = runs_.size();
    SOMFS_TRY(read_redo(state, run.directory + "/redo", false, nullptr, [&](const RedoOp& op) -> Status {
      if (op.type != RedoOp::Type::object || !op.fresh) return {};
      Place place{op.parent, op.parent != 0 ? op.name : stage_name(op.row)};
      if (op.record.attr.kind == Kind::dir) run.directories[op.row] = place;
      if (op.record.attr.kind == Kind::file) files_[op.record.id] = File{index, place, op.inode, op.record.attr};
      return {};
    }));
    runs_.push_back(std::move(run));
  }
  return {};
}

Result<std::optional<Leftover>> Leftovers::find(const ObjectId& id) {
  auto it = files_.find(id);
  if (it == files_.end()) return std::optional<Leftover>();
  const File& file = it->second;
  const Run& run = runs_[file.run];
  std::vector<std::string> chain;
  for (Row r = file.place.parent; r != 0 && chain.size() < (1u << 16);) {
    auto dir = run.directories.find(r);
    if (dir == run.directories.end()) return std::optional<Leftover>();
    chain.push_back(dir->second.name);
    r = dir->second.parent;
  }
  auto at = std::make_shared<Fd>(::openat(state_, (run.directory + "/stage").c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  for (auto name = chain.rbegin(); *at && name != chain.rend(); ++name)
    at = std::make_shared<Fd>(open_beneath(at->get(), *name, O_RDONLY | O_DIRECTORY));
  if (!*at) return std::optional<Leftover>();
  SOMFS_TRY_ASSIGN(auto there, look(at->get(), file.place.name));
  if (!there || there->id != file.inode || there->attr.kind != Kind::file || there->attr.nlink != 1 || there->attr.size != file.attr.size)
    return std::optional<Leftover>();
  return std::optional<Leftover>(Leftover{at, file.place.name});
}

Result<std::vector<StagedRow>> Leftovers::rows() {
  std::vector<StagedRow> rows;
  for (const auto& [id, file] : files_) {
    SOMFS_TRY_ASSIGN(auto left, find(id));
    if (!left) continue;
    Fd fd = open_beneath(left->directory->get(), left->name, O_RDONLY);
    if (!fd) continue;
    SOMFS_TRY_ASSIGN(std::string hash, hash_content(fd.get()));
    rows.push_back({id, file.attr.size, file.attr.mtime, file.attr.ctime, std::move(hash)});
  }
  return rows;
}

Status Leftovers::put_aside(int state, const std::string& redo) {
  if (::mkdirat(state, "resume", 0700) != 0 && errno != EEXIST) return fail_errno("cannot create", "resume");
  SOMFS_TRY_ASSIGN(auto names, run_names(state));
  for (std::size_t i = 0; names.size() - i >= kMostRuns; ++i) {
    Fd dir = open_beneath(state, "resume", O_RDONLY | O_DIRECTORY);
    SOMFS_TRY(remove_tree(dir.get(), names[i]));
  }
  char name[32];
  unsigned long last = names.empty() ? 0 : std::strtoul(names.back().c_str(), nullptr, 10);
  std::snprintf(name, sizeof name, "resume/%010lu", last + 1);
  if (::mkdirat(state, name, 0700) != 0) return fail_errno("cannot create", name);
  std::string to = name;
  // The stage first: a redo list that still lies in journal/ makes the next opening try again.
  if (::renameat(state, "stage", state, (to + "/stage").c_str()) != 0) return fail_errno("cannot put the stage aside");
  if (::mkdirat(state, "stage", 0700) != 0) return fail_errno("cannot create", "stage");
  if (::renameat(state, ("journal/" + redo).c_str(), state, (to + "/redo").c_str()) != 0 && errno != ENOENT)
    return fail_errno("cannot put the redo list aside");
  return {};
}

Status Leftovers::clear(int state) {
  runs_.clear();
  files_.clear();
  return ::faccessat(state, "resume", F_OK, AT_SYMLINK_NOFOLLOW) == 0 ? remove_tree(state, "resume") : Status();
}

}  // namespace somfs::replicator
