// SPDX-License-Identifier: Apache-2.0
// Messages between a source and a mirror, and the transports that carry them. A message is a type and a body; over a byte stream
// it travels as one frame: header (magic, type, codec, lengths, CRC-32C), body compressed when that shrinks it (docs/formats.md,
// "Frames"). In-process, messages pass through bounded queues as they are.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/object.h"
#include "common/result.h"
#include "common/uuid.h"
#include "replicator/pipeline.h"

namespace somfs::replicator {

enum class MessageType : std::uint8_t {
  hello = 1,      // source → mirror: protocol, volume, what it wants
  welcome = 2,    // mirror → source: who it is and what it holds
  begin = 3,      // source → mirror: an epoch's group starts
  records = 4,    // source → mirror: a batch of group records
  commit = 5,     // source → mirror: that was all, with the root of it; make it durable
  committed = 6,  // mirror → source: it is (or it is held, with the reason)
  list = 7,       // source → mirror: which names does this directory hold in your catalog? (many may be under way) Or: if you know it
  listing = 8,    // mirror → source: its rows, kListRows at a time; the last piece has fewer (none, if need be)
  signature = 9,  // source → mirror: librsync signature of this object's committed content, please
  signed_ = 10,   // mirror → source: a piece of it; the last one is empty
  staged = 11,    // source → mirror: what did an interrupted run leave? → `stages`
  stages = 12,
  inspect = 13,   // source → mirror: walk your tree and hash it
  inspected = 14, // mirror → source: a batch of rows, in the order of docs/formats.md; the last one is empty
  abort = 15,     // source → mirror: forget the group begun
  error = 16,     // either way: exit code and line; the conversation ends
  bye = 17,       // source → mirror: that was all. Empty, or how a relation ends: kPaused, kStopped, kUnmounted
  progress = 18,  // mirror → source: bytes staged so far, for the bar and for flow control
  alive = 19,     // source → mirror: I am here; every two seconds from one that replicates, whatever else it says
  applied = 20,   // mirror → source: the tree shows the epoch that was committed last
};

inline constexpr std::uint32_t kProtocol = 5;
inline constexpr std::size_t kIdBytes = 16;
inline constexpr std::string_view kPerhaps = "?";      // after the id in a `list`: a directory that is not known has no rows
inline constexpr std::size_t kMaxBody = 4u << 20;      // of any message, before compression; checked before allocation

// What a body is compressed with on its way; as in the frame.
enum class Codec : std::uint8_t { stored = 0, snappy = 1, lz4 = 2, zstd = 3 };
const char* name_of(Codec codec);                    // "none", "snappy", ...
std::optional<Codec> codec_named(std::string_view name);
// What a hello wants, and how a relation says goodbye.
// kSync: one epoch of a relation, by somebody else than the relation, as `verify` does; kVerify: to look, and begin nothing.
inline constexpr const char *kMigrate = "migrate", *kReplicate = "replicate", *kSync = "sync", *kVerify = "verify";
inline constexpr const char *kPaused = "paused", *kStopped = "stopped", *kUnmounted = "unmounted";

struct Message {
  MessageType type = MessageType::bye;
  std::string body;
  std::string leaf;   // of `records` that stay in this process: leaf_hash() of the body, by whoever made it. Streams do not carry it
};

// What a stream does now with what is sent, large messages at least.
struct HowSent {
  Codec codec = Codec::stored;
  PipelineMode arrangement = PipelineMode::serial;
};

// One end of a conversation. send() blocks while the queue or the socket is full; receive() until something comes.
// After an error every further call gives the same error. One sender thread and one receiver thread at a time.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual Status send(Message message) = 0;
  virtual Result<Message> receive() = 0;      // the peer went away: Exit::link_down
  virtual void close() noexcept = 0;          // both directions; wakes whoever waits. Safe from any thread
  virtual std::uint64_t bytes_sent() const = 0;   // on the wire; in-process: bodies
  virtual std::uint64_t bytes_received() const = 0;
  virtual StageSums stages() const { return {}; }  // what this end did to frames so far; in-process: nothing
  virtual HowSent how_sent() const { return {}; }  // not beside a send()
};

// Two ends in one process; each direction holds at most `bound` bytes.
std::pair<std::unique_ptr<Transport>, std::unique_ptr<Transport>> make_pair_in_process(std::size_t bound = 8u << 20);

// How a stream's ends work: the source sends in an arrangement, the mirror receives in one; the way back is narrow.
struct StreamSettings {
  std::uint64_t bwlimit = 0;                       // bytes per second sent, 0: no limit
  Codec codec = Codec::snappy;                     // of what is sent; what comes says its own
  PipelineMode sending = PipelineMode::fine, receiving = PipelineMode::serial;
  unsigned threads = 0;                            // of a lane; 0: as many as there are cores, at most 4
  int silence_ms = -1;                             // when nothing comes for so long in the middle of a frame the stream is over; -1: never
};
// On a network: as long as keep_alive() waits for a host that has gone.
inline constexpr int kSilenceMs = 30'000;

// Over descriptors (a pipe pair to ssh, a socket, standard input and output), which it owns from now on; they may be the same one.
// What was sent still leaves at the end (for five seconds at most), unless close() was called. All its threads begin with it.
std::unique_ptr<Transport> make_stream(int in_fd, int out_fd, const StreamSettings& settings = {});
// The same over a socket whose handshake is over: every frame is sealed (docs/formats/channel.md).
struct Channel;
std::unique_ptr<Transport> make_sealed_stream(int socket, std::unique_ptr<Channel> channel, const StreamSettings& settings = {});

// ---- bodies -------------------------------------------------------------------------------------------------------
struct Hello {
  std::uint32_t protocol = kProtocol;
  Uuid volume;
  Uuid generation;
  std::vector<Uuid> ancestors;     // at most 64
  std::string wants;               // kMigrate, kReplicate, kSync, kVerify
  std::string host;                // for messages and for the mirror's state; printable
  std::string volume_name;         // to a daemon: which of its mirrors; else empty
};
struct Welcome {
  std::uint32_t protocol = kProtocol;
  Uuid mirror;
  Uuid volume;                     // nil: holds nothing yet
  Uuid generation;                 // of the source that wrote last
  std::uint64_t epoch = 0;         // committed
  bool foreign_tree = false;       // tree/ holds files that no migration put there: first sync onto an existing tree
  std::uint64_t staged = 0;        // objects an interrupted run left
  std::uint64_t files = 0;         // objects in the catalog: for the brake and for plans
  bool held = false;               // an epoch waits for a person's decision
  std::uint32_t user = 0;          // whom it runs as: anybody but root cannot give files away
  std::string root{};              // of its history up to `epoch` (replicator/history.h): 32 bytes, or empty: it knows none
};
struct Begin {
  std::uint64_t base_epoch = 0;    // differential: the mirror's committed epoch must be this; else it refuses (Exit::temporary)
  std::uint64_t epoch = 0;         // what it will hold
  Uuid generation;
  std::string strategy;            // "full", "differential", "gap-scan"
  bool replace_all = false;        // full: whatever no record names is gone
  bool confirmed = false;          // the brake on mass change was released by a person
  double brake_share = 0.5;        // share of the files whose removal is held until confirmed; 1: never
  std::string excludes;            // newline-separated, part of the lineage
  std::string previous{};          // the root this epoch's builds on: 32 bytes, the mirror's own; empty: the chain begins anew
};
struct Committed {
  std::uint64_t epoch = 0;
  bool held = false;
  std::string reason;              // held: why
  std::uint64_t removed = 0, created = 0, changed = 0;
  StageTimes times{};              // of the mirror's stages, for this epoch; to the nanosecond
  std::string root{};              // as the mirror computed it
};
struct Applied {
  std::uint64_t epoch = 0;
  double seconds = 0;              // that it took; to the nanosecond
};
struct ListRow {                   // a name in the mirror's catalog, with what the source said of the object when it was sent
  std::string name;
  ObjectId object;
  Kind kind = Kind::none;
  std::uint64_t size = 0;
  Time mtime, ctime;
  std::uint64_t attr_hash = 0;     // of mode, owner, rdev, xattrs, target: hash64 of their encoding
};
struct InspectRow {                // an object of the mirror's tree as it is now, read by the mirror itself
  std::vector<std::string> path;   // components
  ObjectId object;                 // by the catalog; {} when the catalog does not know it
  Attr attr;                       // nlink as in the tree
  std::string content;             // 32 bytes SHA-256: file content, symlink target; empty for others or where unreadable
  std::uint64_t xattr_hash = 0;
  std::string trouble;             // it could not be read: why
};
struct ErrorBody {
  std::uint8_t exit = 75;
  std::string line;
};

std::string encode(const Hello&);
std::string encode(const Welcome&);
std::string encode(const Begin&);
std::string encode(const Committed&);
std::string encode(const Applied&);
std::string encode(const std::vector<ListRow>&, const ObjectId& dir);
std::string encode(const std::vector<InspectRow>&);
std::string encode(const ErrorBody&);
bool decode(std::string_view, Hello*);
bool decode(std::string_view, Welcome*);
bool decode(std::string_view, Begin*);
bool decode(std::string_view, Committed*);
bool decode(std::string_view, Applied*);
bool decode(std::string_view, std::vector<ListRow>*, ObjectId* dir);
bool decode(std::string_view, std::vector<InspectRow>*);
bool decode(std::string_view, ErrorBody*);

// The 64-bit hash used to compare attributes and xattrs on both sides: the first 8 bytes of SHA-256 of `bytes`, little-endian.
std::uint64_t hash64(std::string_view bytes);
std::uint64_t attr_hash(const Attr& attr, const Xattrs& xattrs, std::string_view target);  // mode, uid, gid, rdev, xattrs, target
std::string sha256(std::string_view bytes);

}  // namespace somfs::replicator
