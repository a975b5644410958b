// Rendezvous: how the ranks of one generation find each other before they can talk: an all-gather
// of small blobs through somebody whom all of them know (the coordinator).
//
// Threads: one caller at a time for each rank.

#ifndef DSRUN_WORKER_COMM_CORE_RENDEZVOUS_H_
#define DSRUN_WORKER_COMM_CORE_RENDEZVOUS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace dsrun::worker {

class Rendezvous {
 public:
  virtual ~Rendezvous() = default;

  // Puts `mine` and blocks until all ranks of the generation have put theirs under `name`; returns
  // them by rank. Every name is used once in a generation. ENSURES: returns an error soon after
  // the generation is cancelled.
  virtual absl::StatusOr<std::vector<std::string>> Exchange(const std::string& name,
                                                            const std::string& mine) = 0;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_COMM_CORE_RENDEZVOUS_H_
