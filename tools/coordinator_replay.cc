// Tells the story of a job from its journal: every event, what the core made of it, and the report.
//
//   coordinator_replay RUN_DIR/journal.db          the story
//   coordinator_replay RUN_DIR/journal.db --state  also the state after every record
//
// Exit code 0; 1 when the journal cannot be read or this version decides differently.

#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "launcher/coordinator/describe.h"
#include "launcher/journal.h"

namespace dsrun::launcher {
namespace {

int Replay(const std::string& path, bool with_state) {
  const absl::StatusOr<JournalContent> journal = ReadJournal(path);
  if (!journal.ok()) {
    std::fprintf(stderr, "coordinator_replay: %s\n", journal.status().ToString().c_str());
    return 1;
  }
  std::printf("job %s, %zu records\n", journal->config.job_id.c_str(), journal->records.size());
  Coordinator coordinator(journal->config);
  int differing = 0;
  absl::Duration begin;
  for (const JournalRecord& record : journal->records) {
    if (record.seq == 1) begin = record.now;
    std::printf("%6lld %10.4f %s  %s\n", static_cast<long long>(record.seq),
                absl::ToDoubleSeconds(record.now - begin),
                absl::FormatTime("%H:%M:%E3S", record.wall, absl::UTCTimeZone()).c_str(),
                Describe(record.event).c_str());
    for (const Action& action : coordinator.Step(record.now, record.event)) {
      std::printf("%34s%s\n", "", Describe(action).c_str());
    }
    if (coordinator.Digest() != record.digest) {
      ++differing;
      std::printf("%34s! another state than when it was written\n", "");
    }
    if (with_state) std::fputs(coordinator.DebugString().c_str(), stdout);
  }
  const absl::Duration end = journal->records.empty() ? begin : journal->records.back().now;
  std::printf("state: %s, generation %lld\n%s", StateName(coordinator.state()),
              static_cast<long long>(coordinator.generation().value()),
              Describe(coordinator.CurrentReport(end)).c_str());
  if (differing > 0) std::printf("%d records led to another state\n", differing);
  return differing == 0 ? 0 : 1;
}

}  // namespace
}  // namespace dsrun::launcher

int main(int argc, char** argv) {
  const bool with_state = argc == 3 && std::string(argv[2]) == "--state";
  if (argc < 2 || (argc > 2 && !with_state)) {
    std::fprintf(stderr, "usage: coordinator_replay RUN_DIR/journal.db [--state]\n");
    return 1;
  }
  return dsrun::launcher::Replay(argv[1], with_state);
}
