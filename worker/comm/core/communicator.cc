#include "worker/comm/core/communicator.h"

#include <optional>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace dsrun::worker {
namespace {

// A payload survives Annotate and StatusOr; a text would have to be parsed again.
constexpr char kPeerRankUrl[] = "dsrun/peer_rank";

}  // namespace

int PeerRank(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kPeerRankUrl);
  int rank = -1;
  if (!payload.has_value() || !absl::SimpleAtoi(std::string(*payload), &rank)) return -1;
  return rank;
}

absl::Status WithPeerRank(absl::Status status, int peer) {
  if (!status.ok()) status.SetPayload(kPeerRankUrl, absl::Cord(absl::StrCat(peer)));
  return status;
}

}  // namespace dsrun::worker
