// A Report to and from its form in a snapshot (proto/snapshot.proto). Pure conversions. Each names
// every field of its value, so a new one does not compile until it has a form.

#ifndef DSRUN_LAUNCHER_COORDINATOR_REPORT_CODEC_H_
#define DSRUN_LAUNCHER_COORDINATOR_REPORT_CODEC_H_

#include "absl/status/statusor.h"
#include "launcher/coordinator/report.h"
#include "proto/snapshot.pb.h"

namespace dsrun::launcher {

// Optional times are absent on the wire when they are absent here.
proto::FailureState ToSnapshot(const Failure& failure);
proto::ReportState ToSnapshot(const Report& report);

// DATA_LOSS for a kind or a table that cannot be.
absl::StatusOr<Failure> FromSnapshot(const proto::FailureState& state);
absl::StatusOr<Report> FromSnapshot(const proto::ReportState& state);

}  // namespace dsrun::launcher

#endif  // DSRUN_LAUNCHER_COORDINATOR_REPORT_CODEC_H_
