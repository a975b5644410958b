// ShareGather: ZeRO-0's second half of an all-reduce (Rajbhandari et al., 2020): what every owner
// has of an array, to all ranks. An array stands in memory as the rank's own share, one range after
// the other, as where nobody else's is held; those of the other owners follow, by rank. So who
// reads or fills a rank's own share does it as under ZeRO-1.
//
// Threads: the communicator's owner thread.

#ifndef DSRUN_WORKER_PARALLEL_SHARE_GATHER_H_
#define DSRUN_WORKER_PARALLEL_SHARE_GATHER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/range.h"
#include "worker/comm/core/communicator.h"
#include "worker/device/stream.h"

namespace dsrun::worker {

class ShareGather {
 public:
  // `stream`: the one that makes and uses the arrays. Both must outlive this. `sizes`: elements of
  // each rank's share, by rank.
  ShareGather(Communicator& communicator, Stream& stream, const std::vector<int64_t>& sizes);

  // `array` (the sum of the sizes): the rank's own share is there, or enqueued on the
  // stream; afterwards all are. Every rank calls it. Errors: the communicator's, the device's.
  absl::Status Gather(float* array, const std::string& what);

  // The other ranks, in the order of their shares.
  const std::vector<int>& others() const { return others_; }

 private:
  Communicator& communicator_;
  Stream& stream_;
  std::vector<int> others_;
  std::vector<std::vector<Range>> places_;  // in an array of this rank, by owner
  int64_t elements_ = 0;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_PARALLEL_SHARE_GATHER_H_
