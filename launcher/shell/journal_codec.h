// The core's events and configuration to and from their journal form (proto/journal.proto). Pure
// conversions; an event that cannot be understood (of a newer version, or damaged) is an error.

#ifndef DSRUN_LAUNCHER_SHELL_JOURNAL_CODEC_H_
#define DSRUN_LAUNCHER_SHELL_JOURNAL_CODEC_H_

#include "absl/status/statusor.h"
#include "launcher/coordinator/coordinator.h"
#include "launcher/coordinator/events.h"
#include "proto/journal.pb.h"

namespace dsrun::launcher {

// REQUIRES: IsDurable(event).
proto::JournalEvent ToJournal(const Event& event);
// DATA_LOSS when there is no event in it.
absl::StatusOr<Event> FromJournal(const proto::JournalEvent& event);

proto::JournalHeader ToJournal(const CoordinatorConfig& config);
CoordinatorConfig FromJournal(const proto::JournalHeader& header);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_SHELL_JOURNAL_CODEC_H_
