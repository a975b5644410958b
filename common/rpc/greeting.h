// The greeting: how a coordinator and an agent prove to each other that both have the cluster key,
// before either says anything else, and without the key on the wire. Pure: bytes in, bytes out.
//
//   coordinator                          agent
//     call     magic, version, nonce  ->
//                                     <- answer   magic, version, nonce, proof
//     claim    proof                  ->
//                                     <- verdict  welcome, or why not; proof
//
// All messages have a fixed size, so nobody needs memory for a stranger. A proof is the
// HMAC-SHA256, under the cluster key, of who makes it (the role), of call and answer, and of the
// address at which they met, as the kernel names it: where the agent was called and where it
// listens. So
//   - the agent proves itself first, and whoever merely holds its port learns two random numbers;
//   - a proof cannot be played again (both nonces), nor sent back (the roles), nor be had from a
//   real
//     agent at another address (the address).
// What a listener does learn is one proof for a nonce of its choice, from an agent: enough to try
// keys at home. So a key has to be drawn at random (common/rpc/secrets.h says how), not thought of.
//
// Good for loopback and unix sockets, where nobody without root's rights reads or changes what
// passes. Off loopback mutual TLS takes the place of these four messages, on the same descriptor,
// within the same deadline and caps (door.h, dial.h), and everything behind stays as it is.
//
// The door of a worker's socket needs no proof, for there the kernel says who calls: its one
// message is the welcome, which is here, too.

#ifndef DSRUN_COMMON_RPC_GREETING_H_
#define DSRUN_COMMON_RPC_GREETING_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace dsrun {

inline constexpr size_t kNonceBytes = 32;
inline constexpr size_t kTicketBytes = 16;
inline constexpr size_t kCallBytes = 48;
inline constexpr size_t kAnswerBytes = 80;
inline constexpr size_t kClaimBytes = 32;
inline constexpr size_t kVerdictBytes = 40;
inline constexpr size_t kWelcomeBytes = 32;

enum class DoorVerdict : uint8_t {
  kWelcome = 0,
  kOtherVersion = 1,  // of this protocol
  kFull = 2,          // too many are in already
  kNotAdmitted = 3,   // the kernel says that the caller is somebody else
};

// The agent's side of one greeting.
class AgentGreeting {
 public:
  // `address`: where it is met. `nonce`: kNonceBytes, fresh.
  AgentGreeting(std::string cluster_key, std::string address, std::string nonce);

  // Size of the next message; 0: none is expected any more.
  size_t wanted() const { return wanted_; }

  struct Reply {
    std::string say;       // to be sent, also when it is refused
    absl::Status refused;  // why this caller gets no further, for the log
  };
  // `message`: wanted() bytes.
  Reply Take(std::string_view message);

  // The caller has the key. What is left to say is the verdict.
  bool proven() const { return proven_; }
  std::string Verdict(DoorVerdict verdict) const;
  // What the caller shows with its first call, so that it is known by which connection it came.
  // REQUIRES: proven.
  std::string ticket() const;

 private:
  Reply TakeCall(std::string_view call);
  Reply TakeClaim(std::string_view claim);

  const std::string key_;
  const std::string address_;
  const std::string nonce_;
  size_t wanted_ = kCallBytes;
  bool proven_ = false;
  std::string transcript_;  // once the call is there
};

// The coordinator's side.
class CoordinatorGreeting {
 public:
  CoordinatorGreeting(std::string cluster_key, std::string address, std::string nonce);

  const std::string& call() const { return call_; }
  // The claim to be sent. `answer`: kAnswerBytes. Errors: UNAUTHENTICATED: whoever answers does not
  // have our key. INVALID_ARGUMENT: another version. PERMISSION_DENIED: it does not want this user.
  // UNAVAILABLE: no dsagent.
  absl::StatusOr<std::string> TakeAnswer(std::string_view answer);
  // `verdict`: kVerdictBytes. Errors: RESOURCE_EXHAUSTED: too many are there already.
  // UNAUTHENTICATED: it is not the agent's. REQUIRES: TakeAnswer was OK.
  absl::Status TakeVerdict(std::string_view verdict) const;
  std::string ticket() const;

 private:
  const std::string key_;
  const std::string address_;
  const std::string call_;
  std::string transcript_;
};

// What a door says before there is a greeting: refused by the kernel's word about the caller.
std::string RefusingAnswer(DoorVerdict verdict);

// ---- The worker's door

// `ticket`: kTicketBytes; of no meaning unless `verdict` is kWelcome.
std::string Welcome(DoorVerdict verdict, std::string_view ticket);
// The ticket. Errors: INVALID_ARGUMENT: another version. PERMISSION_DENIED: not admitted.
// RESOURCE_EXHAUSTED: too many. UNAVAILABLE: no dsagent.
absl::StatusOr<std::string> TakeWelcome(std::string_view welcome);

// ---- Strangers

// Whether `bytes`, the first ones of a connection, can become a greeting; of none: yes.
bool BeginsAsGreeting(std::string_view bytes);
// What they look like instead, in words: "speaks HTTP/2, as a dsrun ... of an earlier version
// does".
std::string StrangerWords(std::string_view bytes);

}  // namespace dsrun

#endif  // DSRUN_COMMON_RPC_GREETING_H_
