// How the ranks of a program meet that has no agent to introduce them: rank 0 listens at an address
// that all of them know (MASTER_ADDR and MASTER_PORT), the others come and come again until it is
// there. Small blobs alone go this way; the communicators that are made with them have connections
// of their own.
//
// What is said has no secret behind it, so that it is good for loopback alone, as everything that
// has no TLS (docs/security.md): other addresses are refused before anything is sent. Names of job
// and generation keep ranks apart that meet by mistake; they keep out nobody who means harm.
//
// Threads: as Rendezvous.

#ifndef DSRUN_WORKER_COMM_TCP_TCP_RENDEZVOUS_H_
#define DSRUN_WORKER_COMM_TCP_TCP_RENDEZVOUS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "worker/comm/core/rendezvous.h"

namespace dsrun::worker {

struct MeetingPlace {
  int rank = 0;
  int size = 1;
  std::string address;  // "127.0.0.1:29500"
  // All ranks say the same.
  std::string job;
  int64_t generation = 1;
  absl::Duration timeout = absl::Seconds(60);  // of Meet, and of each Exchange
};

class TcpRendezvous : public Rendezvous {
 public:
  // Returns when all ranks are there. A single rank meets nobody, and needs no address.
  // Errors: FAILED_PRECONDITION: an address off loopback; rank 0 has sent this one away, with its
  // words (another job, generation or size, a rank that is there already); INVALID_ARGUMENT: no
  // address, a rank beyond the size; UNAVAILABLE: rank 0 cannot listen there;
  // RESOURCE_EXHAUSTED: it has no descriptor left; DEADLINE_EXCEEDED:
  // not all came, or rank 0 was not there in time. All name ranks and address.
  static absl::StatusOr<std::unique_ptr<TcpRendezvous>> Meet(const MeetingPlace& place);

  // Errors: UNAVAILABLE: a rank is gone; DEADLINE_EXCEEDED: one did not come;
  // FAILED_PRECONDITION: one came with another name. The status carries the rank (PeerRank).
  absl::StatusOr<std::vector<std::string>> Exchange(const std::string& name,
                                                    const std::string& mine) override = 0;

  // Drawn at random by rank 0 and told to all ranks: by it their communicators know one another.
  virtual const std::string& token() const = 0;
};

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_COMM_TCP_TCP_RENDEZVOUS_H_
