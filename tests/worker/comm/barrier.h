// Barrier: the smallest collective in which every rank waits for every other one; for tests.

#ifndef DSRUN_TESTS_WORKER_COMM_BARRIER_H_
#define DSRUN_TESTS_WORKER_COMM_BARRIER_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "worker/comm/core/communicator.h"

namespace dsrun::worker {

// Everybody has arrived. Errors: the communicator's.
inline absl::Status Barrier(Communicator& comm, const std::string& what) {
  const auto size = static_cast<size_t>(comm.size());
  const char token = 'b';
  std::string arrived(size, '\0');
  std::vector<SendOp> sends;
  std::vector<RecvOp> recvs;
  for (int peer = 0; peer < comm.size(); ++peer) {
    if (peer == comm.rank()) continue;
    sends.push_back({peer, &token, 1});
    recvs.push_back({peer, &arrived[static_cast<size_t>(peer)], 1});
  }
  return comm.Exchange(sends, recvs, what);
}

}  // namespace dsrun::worker

#endif  // DSRUN_TESTS_WORKER_COMM_BARRIER_H_
