// AsyncCommunicator: a communicator whose operations are enqueued and awaited later: one lane of
// one process group. The blocking Exchange is Enqueue, then Await.
//
// Order. An operation begins when those before it on its lane have ended; lanes wait for nobody but
// themselves. So ranks may enqueue on several lanes in any order and await them in any order; on
// one lane all ranks of the group enqueue the same operations in the same order. Inside an exchange
// messages match by (peer, order), as in communicator.h.
//
// Buffers belong to an operation from Enqueue until Await has returned for its event, whatever it
// returned: then nothing touches them any more. Who must let go of buffers before that calls Abort,
// then Await, and only then frees them. The destructor aborts what is still under way and waits for
// it: a communicator dies before the buffers that it was given.
//
// Errors. The first one ends the lane: operations behind it end with it and touch nothing.
// AsyncError tells it at any time, without waiting.
//
// Threads: one thread (the owner) enqueues, awaits and sets timeouts. Abort and AsyncError may be
// called from any thread.

#ifndef DSRUN_WORKER_COMM_CORE_ASYNC_COMMUNICATOR_H_
#define DSRUN_WORKER_COMM_CORE_ASYNC_COMMUNICATOR_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "worker/comm/core/communicator.h"

namespace dsrun::worker {

// The end of an operation, of the communicator that gave it. The default has always happened.
class AsyncCommunicator;
struct CommEvent {
  uint64_t number = 0;
  const AsyncCommunicator* of = nullptr;
};

class AsyncCommunicator : public Communicator {
 public:
  // An Exchange. SetTimeout holds for what is enqueued after it; an operation's time begins when
  // the operation does.
  virtual CommEvent Enqueue(std::vector<SendOp> sends, std::vector<RecvOp> recvs,
                            const std::string& what) = 0;

  // Every rank's `bytes` at `mine`, to block number rank of `all`, on all ranks: size() * bytes.
  // `mine` may stand in its own block. Bytes are moved, nothing is computed.
  virtual CommEvent EnqueueAllGather(const void* mine, size_t bytes, void* all,
                                     const std::string& what) = 0;

  // `sums`: a block of `elements` for every rank. Afterwards the own block is the sum over all
  // ranks of theirs, modulo 2^64: the same bits however it travelled; the other blocks are
  // undefined. REQUIRES: scratch.size() >= ScratchElements(elements), and as long-lived as `sums`.
  virtual CommEvent EnqueueReduceScatter(int64_t* sums, int64_t elements,
                                         std::span<int64_t> scratch, const std::string& what) = 0;
  virtual int64_t ScratchElements(int64_t elements) const = 0;

  // Until the operation has ended. Its error: those of Exchange.
  virtual absl::Status Await(CommEvent event) = 0;

  // The first error of any operation so far, or of Abort.
  virtual absl::Status AsyncError() = 0;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_COMM_CORE_ASYNC_COMMUNICATOR_H_
