// SPDX-License-Identifier: Apache-2.0
#include "snapshot/store_seen.h"

#include <algorithm>
#include <iterator>

namespace somfs::snapshot {

namespace {
constexpr std::uint64_t kLongRun = 4096;   // 256 MiB: 64 words of bits
}  // namespace

bool Seen::Object::chunk(std::uint64_t index) const {
  if (whole) return true;
  auto at = chunks.find(index / 64);
  return (at != chunks.end() && (at->second >> (index % 64) & 1) != 0) || runs.covers(index, 1);
}

std::uint64_t Seen::Object::next(std::uint64_t index, std::uint64_t end, bool there) const {
  if (whole) return there ? std::min(index, end) : end;
  while (index < end && chunk(index) != there) {
    // What is alike is passed at once: a run, or the gap up to the next run or word.
    auto run = runs.map().upper_bound(index);
    if (!there) {
      const bool in_run = run != runs.map().begin() && std::prev(run)->second > index;
      index = in_run ? std::prev(run)->second : index + 1;
      continue;
    }
    auto word = chunks.lower_bound(index / 64);
    const std::uint64_t by_word = word == chunks.end() ? end : word->first == index / 64 ? index + 1 : word->first * 64;
    index = std::min(by_word, run == runs.map().end() ? end : run->first);
  }
  return std::min(index, end);
}

Seen::Object& Seen::object(const ObjectId& id) {
  auto [at, added] = objects_.try_emplace(id);
  if (added) bytes_ += 160;
  return at->second;
}

void Seen::add_name(const ObjectId& parent, const std::string& name) {
  auto [dir, added] = names_.try_emplace(parent);
  if (added) bytes_ += 128;
  if (dir->second.insert(name).second) bytes_ += 64 + (name.size() > 15 ? name.size() : 0);
}

void Seen::add_bits(Object& object, std::uint64_t word, std::uint64_t bits) {
  auto [at, added] = object.chunks.try_emplace(word, 0);
  if (added) bytes_ += 40;
  at->second |= bits;
}

void Seen::add(const LogRecord& record) {
  if (auto* n = std::get_if<NameRecord>(&record)) {
    add_name(n->parent, n->name);
    if (n->child && lost_.insert(n->child).second) bytes_ += 40;
  } else if (auto* a = std::get_if<AttrRecord>(&record)) {
    Object& o = object(a->object);
    if (!o.attr) o.size = a->attr.size;
    o.attr = true;
  } else if (auto* c = std::get_if<ChunkRecord>(&record)) {
    Object& o = object(c->object);
    if (c->count() >= kLongRun) {
      o.runs.add(c->first, c->count());
      bytes_ += 64;
      return;
    }
    std::uint64_t end = c->first + c->count();
    for (std::uint64_t i = c->first; i < end;) {
      std::uint64_t upto = std::min(end, (i / 64 + 1) * 64);
      std::uint64_t n_bits = upto - i;
      add_bits(o, i / 64, (n_bits == 64 ? ~0ull : (1ull << n_bits) - 1) << (i % 64));
      i = upto;
    }
  } else if (auto* w = std::get_if<WholeRecord>(&record)) {
    object(w->object).whole = true;
  }
}

void Seen::merge(const Seen& other) {
  for (const auto& [parent, names] : other.names_)
    for (const std::string& n : names) add_name(parent, n);
  for (const ObjectId& id : other.lost_)
    if (lost_.insert(id).second) bytes_ += 40;
  for (const auto& [id, theirs] : other.objects_) {
    Object& ours = object(id);
    if (!ours.attr && theirs.attr) {
      ours.attr = true;
      ours.size = theirs.size;
    }
    ours.whole = ours.whole || theirs.whole;
    for (const auto& [word, bits] : theirs.chunks) add_bits(ours, word, bits);
    ours.runs.add(theirs.runs);
    bytes_ += 64 * theirs.runs.count();
  }
}

bool Seen::name(const ObjectId& parent, std::string_view name) const {
  auto at = names_.find(parent);
  return at != names_.end() && at->second.contains(std::string(name));
}

bool Seen::attr(const ObjectId& object) const {
  const Object* o = find(object);
  return o != nullptr && o->attr;
}

const Seen::Object* Seen::find(const ObjectId& object) const {
  auto at = objects_.find(object);
  return at == objects_.end() ? nullptr : &at->second;
}

}  // namespace somfs::snapshot
