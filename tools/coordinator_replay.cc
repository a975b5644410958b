// Tells the story of a job from its journal: every event, what the core made of it, and the report.
//
//   coordinator_replay RUN_DIR/journal.db                   the story
//   coordinator_replay RUN_DIR/journal.db --state           also the state after every record
//   coordinator_replay RUN_DIR/journal.db --from-snapshot   from the newest snapshot that is good
//   coordinator_replay RUN_DIR/journal.db --even-behind     although it has fallen behind its job
//
// The digest after every record that has one, and that of the snapshot, must be the one that was
// written down.
// Exit code 0; 1 when the journal cannot be read or this version decides differently.

#include <cstdio>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/file_system.h"
#include "launcher/coordinator/describe.h"
#include "launcher/shell/journal.h"

namespace dsrun::launcher {
namespace {

constexpr char kUsage[] =
    "usage: coordinator_replay RUN_DIR/journal.db [--state] [--from-snapshot] [--even-behind]\n"
    "  Tells what the coordinator of a job heard and decided, from the first record on.\n"
    "  --state          also the state after every record\n"
    "  --from-snapshot  begin with the newest snapshot that is good, not with the first record\n"
    "  --even-behind    what is there of a journal that does not say how its job went on\n"
    "Exit code 1 when the journal cannot be read, or a record leads to another state than it "
    "did.\n";

struct Options {
  std::string path;
  bool with_state = false;
  ReadFrom from = ReadFrom::kStart;
  IfBehind if_behind = IfBehind::kRefuse;
};

std::string WallTime(absl::Time wall) {
  return absl::FormatTime("%H:%M:%E3S", wall, absl::UTCTimeZone());
}

void PrintBeginning(const JournalContent& journal) {
  std::printf("job %s, %zu records\n", journal.config.job_id.c_str(), journal.records.size());
  for (const std::string& skipped : journal.skipped) std::printf("skipped: %s\n", skipped.c_str());
  if (!journal.snapshot) return;
  std::printf("begins with the snapshot after record %lld, %s, digest %s as its record\n%s",
              static_cast<long long>(journal.snapshot->seq),
              WallTime(journal.snapshot->wall).c_str(),
              absl::StrCat(absl::Hex(journal.snapshot->core.Digest())).c_str(),
              journal.snapshot->core.DebugString().c_str());
}

// What the times of records are counted from.
absl::Duration StartOfJob(const JournalContent& journal) {
  if (journal.snapshot) return journal.snapshot->core.CurrentReport({}).started_at;
  return journal.records.empty() ? absl::ZeroDuration() : journal.records.front().now;
}

int Replay(const Options& options) {
  const absl::StatusOr<JournalContent> journal =
      ReadJournal(options.path, options.from, options.if_behind);
  if (!journal.ok()) {
    std::fprintf(stderr, "coordinator_replay: %s\n", journal.status().ToString().c_str());
    return 1;
  }
  if (FileSystem::Real().Stat(BehindMarkOf(options.path)).ok()) {
    std::printf("BEHIND ITS JOB: what happened last is not in this journal\n");
  }
  PrintBeginning(*journal);
  Coordinator coordinator = CoreAtTheBeginning(*journal);
  int differing = 0;
  const absl::Duration since = StartOfJob(*journal);
  absl::Duration end = journal->snapshot ? journal->snapshot->now : since;
  for (const JournalRecord& record : journal->records) {
    end = record.now;
    std::printf("%6lld %10.4f %s  %s\n", static_cast<long long>(record.seq),
                absl::ToDoubleSeconds(record.now - since), WallTime(record.wall).c_str(),
                Describe(record.event).c_str());
    for (const Action& action : coordinator.Step(record.now, record.event)) {
      std::printf("%34s%s\n", "", Describe(action).c_str());
    }
    if (record.digest && coordinator.Digest() != *record.digest) {
      ++differing;
      std::printf("%34s! another state than when it was written\n", "");
    }
    if (options.with_state) std::fputs(coordinator.DebugString().c_str(), stdout);
  }
  std::printf("state: %s, generation %lld, digest %s\n%s", StateName(coordinator.state()),
              static_cast<long long>(coordinator.generation().value()),
              absl::StrCat(absl::Hex(coordinator.Digest())).c_str(),
              Describe(coordinator.CurrentReport(end)).c_str());
  if (differing > 0) std::printf("%d records led to another state\n", differing);
  return differing == 0 ? 0 : 1;
}

}  // namespace
}  // namespace dsrun::launcher

int main(int argc, char** argv) {
  dsrun::launcher::Options options;
  bool understood = true;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--state") {
      options.with_state = true;
    } else if (argument == "--from-snapshot") {
      options.from = dsrun::launcher::ReadFrom::kNewestSnapshot;
    } else if (argument == "--even-behind") {
      options.if_behind = dsrun::launcher::IfBehind::kRead;
    } else if (options.path.empty() && !argument.starts_with("-")) {
      options.path = argument;
    } else {
      understood = false;
    }
  }
  if (!understood || options.path.empty()) {
    std::fputs(dsrun::launcher::kUsage, stderr);
    return 1;
  }
  return dsrun::launcher::Replay(options);
}
