// How a peer of a generation shows that it was let in by the coordinator: a keyed hash over who
// speaks to whom, in which generation, under the job's token (RFC 2104, SHA-256). The token itself
// never travels. Pure.
//
// What this does not do: it neither encrypts nor authenticates what follows on the connection, and
// somebody in the middle can pass proofs on. That needs TLS; off loopback the worker does not start
// without it (docs/failure_model.md).

#ifndef DSRUN_WORKER_COMM_GLOO_MEMBERSHIP_PROOF_H_
#define DSRUN_WORKER_COMM_GLOO_MEMBERSHIP_PROOF_H_

#include <array>
#include <cstdint>
#include <string>

namespace dsrun::worker {

using MembershipProof = std::array<unsigned char, 32>;

// What rank `from` sends to rank `to` first.
MembershipProof MakeMembershipProof(const std::string& job_token, int64_t generation,
                                    const std::string& group, int from, int to);

// In constant time.
bool SameProof(const MembershipProof& a, const MembershipProof& b);

}  // namespace dsrun::worker

#endif  // DSRUN_WORKER_COMM_GLOO_MEMBERSHIP_PROOF_H_
