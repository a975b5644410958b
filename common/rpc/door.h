// Door: listens, accepts, and makes sure of who is there on the bare descriptor; only then is the
// connection handed to gRPC. So before that there is no HTTP/2, no stream, no message of any size:
// a stranger costs a descriptor, some hundred bytes, and a few seconds at most.
//
//   Door::Options options{.name = "...", .listen = "127.0.0.1:0", .cluster_key = key};
//   auto door = Door::Open(options, &server, &guests);
//
// What a caller has to be: one that the kernel's word about it satisfies (`judge`, on a unix
// socket), and one that has the cluster key (greeting.h), where there is one. Off loopback, mutual
// TLS takes the greeting's place in Door::Visit, on the same descriptor and within the same caps;
// gRPC gets the plain end of it.
//
// Nobody can keep others out by being there:
//   - of callers that are not proven yet there are at most `most_unproven`, each for `prove_within`
//     at most. When one more comes, one of them goes:
//       1. one that has said nothing for longer than `moment`, the oldest first;
//       2. if there is none (a flood): half of the places are for those that have said nothing yet,
//          half for those that have called and owe their claim. Of the kind that has more than its
//          half goes the one that has owed its next word for the longest.
//     So idle connections make room for everybody; a flood of silent callers pushes out silent ones
//     alone, however fast it is, and those who call and stop there push out one another. An honest
//     caller owes each of its two words for a few milliseconds at most, mostly for none: whoever is
//     accepted is heard at once, and the kernel queues callers in the order in which they came, so
//     in a flood its call is there before it is accepted. At most half the house is accepted in a
//     row, then all are heard: nobody goes before it was listened to. Whoever is pushed out all the
//     same calls again (dial.h).
//   - of those that came in there are at most `most_proven`, and of one process `most_of_one`. One
//     that says nothing that is taken within `settle_within` is cut.
//   - where no descriptor is left, one that is kept for it accepts the caller and drops it.
// One thread does all of this. What it says in the log is bounded, too, and how much was left out
// is said with the next line.
//
// Thread-safe. Destruction stops the listening and removes the file of a unix socket; connections
// that gRPC has stay, unless CutAll comes first.

#ifndef DSRUN_COMMON_RPC_DOOR_H_
#define DSRUN_COMMON_RPC_DOOR_H_

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/descriptor.h"
#include "common/base/mutex.h"
#include "common/base/wake_fd.h"
#include "common/rpc/greeting.h"
#include "common/rpc/guest_list.h"
#include "common/rpc/line_budget.h"
#include "common/rpc/sockets.h"

namespace dsrun {

class RpcServer;

class Door {
 public:
  struct Options {
    std::string name;         // for log lines: "the coordinator's door"
    std::string listen;       // as of ListenOn
    std::string cluster_key;  // secret. Empty: `judge` is enough
    // Of a unix socket's file: whose it is. Default: ours.
    std::optional<uint32_t> owner;
    // Whether this caller of a unix socket may come in, before a byte of it is read. Called by the
    // door's thread; must not block for long. Not called on TCP, where nothing is known.
    // REQUIRES: there, on a unix socket.
    std::function<absl::Status(const Caller&)> judge;
    size_t most_unproven = 32;
    size_t most_proven = 16;
    size_t most_of_one = 16;  // with the same pid, of a unix socket
    absl::Duration prove_within = absl::Seconds(5);
    // What an honest caller needs for its next word on a busy machine. REQUIRES: < prove_within.
    absl::Duration moment = absl::Milliseconds(20);
    absl::Duration settle_within = absl::Seconds(10);
  };

  // `server` and `guests` must outlive the door. Errors: those of ListenOn; RESOURCE_EXHAUSTED: no
  // thread or descriptor.
  static absl::StatusOr<std::unique_ptr<Door>> Open(Options options, RpcServer* server,
                                                    GuestList* guests);
  ~Door();

  int port() const { return listening_.port; }  // 0 for a unix socket
  // "127.0.0.1:4711", "unix:/path".
  const std::string& address() const { return listening_.address; }

  // Connections that came in and have not ended.
  size_t proven() const;
  // Ends them all, whatever is on them.
  void CutAll();

 private:
  // Not proven yet.
  struct Visitor {
    Descriptor fd;
    Caller caller;
    SteadyTime until;
    SteadyTime owes_since;  // its next message: when it came, or when its call was answered
    AgentGreeting greeting;
    std::string got;  // of the next message

    bool has_called() const { return greeting.wanted() != kCallBytes; }
  };
  // gRPC has the connection; this is a second descriptor of it, which tells its end (gRPC shuts a
  // socket down before it closes it) and can cut it.
  struct Resident {
    Descriptor watch;
    std::string ticket;
    std::shared_ptr<Guest> guest;
    SteadyTime settle_by;
  };

  Door(Options options, ListeningSocket listening, WakeFd wake, RpcServer* server,
       GuestList* guests);
  void Loop();
  SteadyTime NextDeadline() const;
  void AcceptAll(SteadyTime now);
  bool IsClosing() const;
  // False: nothing more can be accepted now.
  bool AcceptOne(SteadyTime now);
  void DropOne(int error, SteadyTime now);
  void Receive(Descriptor fd, SteadyTime now);
  int AcceptsInARow() const;
  std::list<Visitor>::iterator WhoGoes(SteadyTime now);
  void MakeRoom(SteadyTime now);
  absl::Status Judge(Caller& caller, int fd) const;
  // False: the visitor is to be dropped, or has come in.
  bool Visit(Visitor& visitor, SteadyTime now);
  DoorVerdict RoomFor(const Caller& caller) const;
  void LetIn(Descriptor fd, const Caller& caller, const std::string& ticket,
             const std::string& welcome, SteadyTime now);
  void LookAtResidents(const std::vector<short>& events, SteadyTime now);
  void Refuse(const Caller& caller, const std::string& why);
  void Report(const std::string& words);

  const Options options_;
  const ListeningSocket listening_;
  const WakeFd wake_;
  RpcServer* const server_;
  GuestList* const guests_;

  // Of the door's thread.
  std::list<Visitor> visitors_;  // in the order in which they came
  std::optional<Descriptor> reserve_;
  SteadyTime accept_again_at_;
  LineBudget lines_;

  mutable Mutex mu_;
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  std::list<Resident> residents_ ABSL_GUARDED_BY(mu_);

  std::thread thread_;
};

}  // namespace dsrun

#endif  // DSRUN_COMMON_RPC_DOOR_H_
