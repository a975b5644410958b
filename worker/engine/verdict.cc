#include "worker/engine/verdict.h"

#include <string>

#include "absl/strings/cord.h"

namespace dsrun::worker {
namespace {

constexpr char kVerdictUrl[] = "dsrun/verdict";

proto::Failed::Verdict VerdictOfCode(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kUnavailable:       // a peer, or what is retried, is gone
    case absl::StatusCode::kAborted:           // the generation is over
    case absl::StatusCode::kDeadlineExceeded:  // nobody answered
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kDataLoss:          // the previous checkpoint is looked for
    case absl::StatusCode::kPermissionDenied:  // a stranger at the port
      return proto::Failed::kRetry;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:  // the run has diverged
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kUnauthenticated:
      return proto::Failed::kEndJob;
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
    default:  // a code that nobody foresaw
      return proto::Failed::kReplaceProcess;
  }
}

}  // namespace

proto::Failed::Verdict VerdictOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kVerdictUrl);
  proto::Failed::Verdict verdict = proto::Failed::kUnset;
  if (payload.has_value() && proto::Failed::Verdict_Parse(std::string(*payload), &verdict) &&
      verdict != proto::Failed::kUnset) {
    return verdict;
  }
  return VerdictOfCode(status.code());
}

absl::Status WithVerdict(absl::Status status, proto::Failed::Verdict verdict) {
  if (!status.ok())
    status.SetPayload(kVerdictUrl, absl::Cord(proto::Failed::Verdict_Name(verdict)));
  return status;
}

}  // namespace dsrun::worker
