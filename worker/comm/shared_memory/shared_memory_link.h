// One rank's end of the shared memory between it and one other rank of its node: the messages of
// the running Exchange in both directions, moved piece by piece as the rings allow.
//
// Threads: one.

#ifndef DSRUN_WORKER_COMM_SHARED_MEMORY_SHARED_MEMORY_LINK_H_
#define DSRUN_WORKER_COMM_SHARED_MEMORY_SHARED_MEMORY_LINK_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/comm/core/communicator.h"
#include "worker/comm/shared_memory/shared_memory_inbox.h"
#include "worker/comm/shared_memory/shared_memory_ring.h"

namespace dsrun::worker {

class SharedMemoryLink {
 public:
  // Between `rank`, whose inbox is `own`, and `peer`, whose inbox is `inbox`.
  SharedMemoryLink(int rank, int peer, SharedInbox& own, std::unique_ptr<SharedInbox> inbox);

  int peer() const { return peer_; }
  SharedInbox& inbox() { return *inbox_; }

  // Messages of this Exchange, in order; their memory must live until it is done.
  void Add(const SendOp& send) { sends_.push_back(send); }
  void Add(const RecvOp& recv) { recvs_.push_back(recv); }
  bool done() const { return next_send_ == sends_.size() && next_recv_ == recvs_.size(); }
  bool receiving() const { return next_recv_ < recvs_.size(); }
  // Forgets the messages of an Exchange that is done.
  void Clear();

  // Moves up to one piece each way; whether anything moved. Rings the peer when it may have
  // something to do. FAILED_PRECONDITION: the peer sends another size than is waited for.
  absl::StatusOr<bool> Move(const std::string& what);

 private:
  // In front of every message.
  struct Header {
    uint64_t number;  // of the message in this direction, from 0
    uint64_t bytes;
  };

  bool MoveOut();
  absl::StatusOr<bool> MoveIn(const std::string& what);

  const int rank_;
  const int peer_;
  const std::unique_ptr<SharedInbox> inbox_;
  RingWriter out_;
  RingReader in_;

  std::vector<SendOp> sends_;
  std::vector<RecvOp> recvs_;
  size_t next_send_ = 0;
  size_t next_recv_ = 0;
  // Of the message that is being moved: bytes of the header, then of the content.
  size_t sent_header_ = 0, sent_ = 0;
  size_t received_header_ = 0, received_ = 0;
  Header out_header_ = {}, in_header_ = {};
  uint64_t sends_ever_ = 0, recvs_ever_ = 0;
  bool unannounced_ = false;  // written since the peer was last rung
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_COMM_SHARED_MEMORY_SHARED_MEMORY_LINK_H_
