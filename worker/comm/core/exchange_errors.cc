#include "worker/comm/core/exchange_errors.h"

#include "absl/strings/str_cat.h"
#include "worker/comm/core/communicator.h"

namespace dsrun::worker {

absl::Status PeerGoneError(int rank, int peer, const std::string& what, const std::string& detail) {
  return WithPeerRank(
      absl::UnavailableError(
          absl::StrCat("rank ", peer, " is gone: rank ", rank, " lost it in '", what, "'",
                       detail.empty() ? "" : " (", detail, detail.empty() ? "" : ")",
                       "; this generation is over, see the log of rank ", peer, " for the cause")),
      peer);
}

absl::Status NoAnswerError(int rank, int peer, const std::string& what,
                           const std::string& waited_for, absl::Duration timeout) {
  return WithPeerRank(
      absl::DeadlineExceededError(absl::StrCat(
          "rank ", rank, " waited ", absl::FormatDuration(timeout), " in '", what, "' for ",
          waited_for, " rank ", peer, " and got nothing; look at what rank ", peer, " is doing")),
      peer);
}

absl::Status AbortedError(int rank, const std::string& reason) {
  return absl::AbortedError(absl::StrCat("communicator of rank ", rank, " was aborted: ", reason));
}

}  // namespace dsrun::worker
