// SPDX-License-Identifier: Apache-2.0
// One measurement of the pipeline, its result as one JSON object: what bench/pipeline runs for every cell of its tables.
#include <sys/stat.h>

#include <csignal>
#include <iostream>
#include <map>

#include "bench/pipeline_run.h"
#include "cli/arguments.h"
#include "common/printable.h"

namespace {

using namespace somfs;
using namespace somfs::replicator;

int failed(const Error& e) {
  std::cerr << "somfs-bench-pipeline: " << e.line() << std::endl;
  return static_cast<int>(e.exit);
}

bool directory(const std::string& path) {
  struct stat st{};
  return ::stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode);
}

int measure(int argc, char** argv) {
  bench::RunSettings s;
  cli::CommandLine app("Measures somfs's replication pipeline once: a writer, the source's site, a TCP connection over loopback, the mirror's site in a process of its own.",
                       "somfs-bench-pipeline");
  app.footer("VOLUME and MIRROR are directories that exist; files named data are made in them, and a mirror in MIRROR. The result is one JSON object.");
  std::string codec = "snappy", mode = "fine", pacing = "bottleneck";
  bool plain = false, shared = false, no_journal = false;
  app.add_option("volume", s.volume, "Where the writer writes").required();
  const cli::Option mirror = app.add_option("mirror", s.mirror, "Where the mirror lies; not with --only-writes");
  app.add_flag("--only-writes", s.only_writes, "The writer alone").excludes(mirror);
  app.add_option("--request", s.request, "Bytes of a write request").size().capture_default_str();
  app.add_flag("--random", s.random, "At random places; else one after the other");
  app.add_flag("--direct", s.direct, "Past the page cache (O_DIRECT)");
  app.add_option("--file", s.file, "Bytes of the file that is written").size().capture_default_str();
  app.add_option("--compressible", s.compressible, "Part of each page that is text; the rest is noise").capture_default_str();
  app.add_option("--rate", s.rate, "Bytes written a second; 0: as fast as it goes").size().capture_default_str();
  app.add_option("--seconds", s.seconds, "How long it writes; 0: until --bytes or --periods").capture_default_str();
  app.add_option("--bytes", s.bytes, "How much it writes").size();
  app.add_option("--periods", s.periods, "How many groups");
  app.add_option("--codec", codec, "What compresses").one_of({"none", "snappy", "lz4", "zstd"}).capture_default_str();
  app.add_flag("--plain", plain, "Not encrypted: frames with a checksum, as they go through ssh");
  app.add_option("--mode", mode, "How each site spreads its stages over threads")
      .one_of({"auto", "serial", "fine", "threaded", "hybrid"}).capture_default_str();
  app.add_option("--threads", s.threads, "Threads of a lane, at each site").capture_default_str();
  app.add_option("--frame", s.frame, "Bytes of a frame; a group is a row of them").size().capture_default_str();
  app.add_option("--group", s.group, "The most a group may have, in bytes").size().capture_default_str();
  app.add_option("--link", s.link, "Bytes a second that the link carries; 0: no limit").size().capture_default_str();
  app.add_option("--pacing", pacing, "The law of the interval").one_of({"bottleneck", "paper", "none"}).capture_default_str();
  app.add_option("--first", s.first_s, "The first interval, in seconds").capture_default_str();
  app.add_flag("--no-journal", no_journal, "The mirror writes records to its file as they come and syncs nothing");
  app.add_flag("--shared-cores", shared, "Both sites on all cores; else each has half of them where there are two");
  app.add_flag("--check", s.check, "Compare both files at the end");
  const cli::Parsed parsed = app.parse(argc, argv);
  if (parsed.answer) {
    std::cout << *parsed.answer << std::flush;
    return 0;
  }
  if (parsed.problem) return failed({Exit::usage, 0, *parsed.problem, {}, {}, "see somfs-bench-pipeline --help"});
  s.codec = *codec_named(codec);
  s.mode = *pipeline_mode(mode);
  s.pacing = pacing == "paper" ? Pacing::paper : pacing == "none" ? Pacing::none : Pacing::bottleneck;
  s.sealed = !plain;
  s.own_cores = !shared;
  s.journal = !no_journal;
  if (s.mirror.empty() && !s.only_writes) return failed({Exit::usage, 0, "a mirror is needed", {}, {}, "name a directory for it, or use --only-writes"});
  for (const std::string& path : {s.volume, s.mirror})
    if (!path.empty() && !directory(path)) return failed({Exit::usage, 0, "not a directory", printable(path), {}, {}});
  auto measured = bench::run(s);
  if (!measured) return failed(measured.error());
  std::cout << measured->json(s) << std::endl;
  if (measured->checked && !measured->equal) return failed({Exit::differs, 0, "the mirror's file is not the source's", {}, {}, {}});
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  try {
    return measure(argc, argv);
  } catch (const std::exception& e) {
    return failed({Exit::temporary, 0, "failed unexpectedly", {}, e.what(), {}});
  }
}
