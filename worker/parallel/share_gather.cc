#include "worker/parallel/share_gather.h"

#include "common/base/status_macros.h"
#include "worker/comm/core/collectives.h"

namespace dsrun::worker {

ShareGather::ShareGather(Communicator& communicator, Stream& stream,
                         const std::vector<int64_t>& sizes)
    : communicator_(communicator),
      stream_(stream),
      places_(static_cast<size_t>(communicator.size())) {
  const auto place = [&](int rank) {
    const int64_t size = sizes[static_cast<size_t>(rank)];
    if (size > 0) places_[static_cast<size_t>(rank)] = {{elements_, elements_ + size}};
    elements_ += size;
  };
  place(communicator.rank());
  for (int rank = 0; rank < communicator.size(); ++rank) {
    if (rank == communicator.rank()) continue;
    others_.push_back(rank);
    place(rank);
  }
}

// An exchange is told of bytes for a peer, not of where they stand there: each rank has its own
// places.
absl::Status ShareGather::Gather(float* array, const std::string& what) {
  if (others_.empty() || elements_ == 0) return absl::OkStatus();
  RETURN_IF_ERROR(stream_.Record().Await());
  ASSIGN_OR_RETURN(const HostAccess access,
                   stream_.OpenForHost(array, static_cast<size_t>(elements_) * sizeof(float)));
  return AllGatherRanges(communicator_, places_, array, what);
}

}  // namespace dsrun::worker
