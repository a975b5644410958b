#include "worker/engine/verify_together.h"

#include <vector>

#include "absl/status/statusor.h"
#include "common/base/status_macros.h"
#include "common/format/checkpoint_reader.h"
#include "worker/checkpoint/shared_verification.h"
#include "worker/comm/core/collectives.h"
#include "worker/engine/packed_status.h"

namespace dsrun::worker {
namespace {

absl::Status VerifyMine(Communicator& comm, FileSystem& fs, const std::string& folder,
                        const std::string& manifest, const std::function<void()>& moved) {
  ASSIGN_OR_RETURN(const Checkpoint checkpoint,
                   OpenCheckpoint(fs, folder, manifest, Verify::kNone));
  return VerifyShare(fs, folder, checkpoint.manifest(), comm.rank(), comm.size(), moved);
}

}  // namespace

absl::Status VerifyTogether(Communicator& comm, FileSystem& fs, const std::string& folder,
                            const std::string& manifest, const std::function<void()>& moved) {
  const absl::Status mine = VerifyMine(comm, fs, folder, manifest, moved);
  ASSIGN_OR_RETURN(
      const std::vector<std::string> packed,
      AllGather(comm, Pack(mine.ok() ? absl::StatusOr<std::string>("") : mine), "verdicts"));
  std::vector<absl::Status> by_rank;
  for (const std::string& one : packed) by_rank.push_back(Unpack(one).status());
  return JoinShares(by_rank);
}

}  // namespace dsrun::worker
