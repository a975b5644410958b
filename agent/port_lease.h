// PortLease: a TCP port of this machine that no other job of dsrun takes while the lease is held.
//
// The port itself stays unbound: the program binds it, with whatever options it likes. What is held
// is a name, "\0dsrun-port-N" among the abstract unix sockets. Those live in the same network
// namespace as the port, every user can take part, and the kernel gives the name back when its
// holder dies, however it dies: there is no file to be left behind, guessed or linked elsewhere.
//
// What it cannot do: keep out who does not ask for a lease. A port is looked at when it is leased,
// and chosen outside the range from which the kernel gives ports to connections, so only a
// stranger's program that asks for just this port in the moments until rank 0 binds it can take it;
// then rank 0 says so, and the next generation gets another.
//
// Thread-compatible.

#ifndef DSRUN_AGENT_PORT_LEASE_H_
#define DSRUN_AGENT_PORT_LEASE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace dsrun::agent {

class PortLease {
 public:
  // Just this port. `address`: numeric, where it will be bound; one that is not this machine's, or
  // empty: any. Errors: ALREADY_EXISTS: another job has it, or a process uses it, with who that is
  // as far as can be seen from here; PERMISSION_DENIED: this user may not bind it;
  // RESOURCE_EXHAUSTED: no descriptor left.
  static absl::StatusOr<PortLease> Take(int32_t port, const std::string& address);
  // The first that can be had on all addresses, behind `after` (0: from the first candidate on), by
  // a program that knows nothing of reuse, too: not where connections have ended a moment ago.
  // Errors: UNAVAILABLE: none can; RESOURCE_EXHAUSTED as above.
  static absl::StatusOr<PortLease> TakeAny(int32_t after);

  PortLease() = default;  // none
  PortLease(PortLease&& other) noexcept;
  PortLease& operator=(PortLease&& other) noexcept;
  ~PortLease();

  int32_t port() const { return port_; }  // 0: none
  // OK, or why the port cannot be bound now, as Take says it.
  absl::Status StillFree(const std::string& address) const;

 private:
  PortLease(int32_t port, int fd) : port_(port), fd_(fd) {}

  int32_t port_ = 0;
  int fd_ = -1;
};

// The ports that TakeAny tries, in its order: 29500 and up, which programs expect, then others. Of
// `ephemeral` ("32768\t60999", as the kernel says it) and `reserved` ("8080,9148-9150") none,
// unless nothing else is left. Pure.
std::vector<int32_t> CandidatePorts(std::string_view ephemeral, std::string_view reserved);

}  // namespace dsrun::agent

#endif  // DSRUN_AGENT_PORT_LEASE_H_
