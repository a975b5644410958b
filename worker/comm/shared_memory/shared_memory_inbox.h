// What one rank shares with the other ranks of its node: a doorbell, a word about how its
// communicator ended, and one ring for each rank that may write to it. The memory has no name in
// any file system (memfd_create), so nothing can be left behind; peers open it through
// /proc/PID/fd, which the kernel allows to the same user alone, and compare a random word that they
// were told through the coordinator. Its size is sealed: no peer can take pages away from another.
//
// Threads: the doorbell and the end may be used by any thread, of any process; Wait by one.

#ifndef DSRUN_WORKER_COMM_SHARED_MEMORY_SHARED_MEMORY_INBOX_H_
#define DSRUN_WORKER_COMM_SHARED_MEMORY_SHARED_MEMORY_INBOX_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/comm/shared_memory/shared_memory_ring.h"

namespace dsrun::worker {

// Where a peer finds an inbox, as it travels through the rendezvous.
struct InboxAddress {
  int64_t pid = 0;
  int fd = -1;
  std::array<unsigned char, 16> word = {};  // random
};

class SharedInbox {
 public:
  // A new inbox with a ring for each of `ranks` writers. Rings that nobody uses take no memory.
  // Errors: UNAVAILABLE: this system has no such memory.
  static absl::StatusOr<std::unique_ptr<SharedInbox>> Create(int ranks, size_t ring_bytes);
  // Another process's (or this one's). The same `ranks` and `ring_bytes` as at its creation.
  // Errors: UNAVAILABLE: it may not be opened, or is not the one of `address`.
  static absl::StatusOr<std::unique_ptr<SharedInbox>> Open(const InboxAddress& address, int ranks,
                                                           size_t ring_bytes);
  ~SharedInbox();
  SharedInbox(const SharedInbox&) = delete;
  SharedInbox& operator=(const SharedInbox&) = delete;

  // Of an inbox created here.
  InboxAddress address() const;
  // Peers have opened it: the descriptor is no longer needed.
  void CloseDescriptor();

  RingWriter WriterOf(int rank) { return {Positions(rank), Data(rank), ring_bytes_}; }
  RingReader ReaderOf(int rank) { return {Positions(rank), Data(rank), ring_bytes_}; }

  // Wakes the owner's Wait, now or when it comes. A system call only when the owner sleeps.
  void Ring();
  // How often it has been rung, for Wait.
  uint32_t Rings() const;
  // Sleeps until it has been rung since `rings`, or `timeout`.
  void Wait(uint32_t rings, absl::Duration timeout);

  // How the owner's communicator ended; the first end stays. `because_of`: the rank that its error
  // names, or -1.
  void SetEnded(int because_of);
  bool ended() const;
  int ended_because_of() const;

  // Whether the owner's process is gone. Of an opened inbox.
  bool OwnerIsDead() const;

 private:
  struct Header;
  SharedInbox(int fd, int pidfd, void* memory, size_t bytes, int ranks, size_t ring_bytes);
  static absl::StatusOr<std::unique_ptr<SharedInbox>> Map(int fd, int pidfd, int ranks,
                                                          size_t ring_bytes);
  RingPositions* Positions(int rank);
  char* Data(int rank);

  int fd_;           // -1: closed
  const int pidfd_;  // of the owner; -1: this process
  char* const memory_;
  const size_t bytes_;
  const int ranks_;
  const size_t ring_bytes_;
  Header* const header_;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_COMM_SHARED_MEMORY_SHARED_MEMORY_INBOX_H_
