// WorkerDoor: the unix socket of one job, where its ranks find their agent. Made when the job is
// admitted, gone with it.
//
// The agent's folder and the job's folder in it belong to the agent's user for good: root's, where
// root's agent runs ranks as somebody else, and then everybody may pass through them and nobody may
// look around or change anything. What the ranks' user is given is the socket file alone (mode
// 0600). So whoever was served before has nothing that is left: no folder, no name, no socket.
//
// Through the door comes who is a live worker process of this job by the kernel's word
// (SO_PEERCRED), not by its own. Its ticket then says which one it is.
//
// Thread-safe.

#ifndef DSRUN_AGENT_WORKER_DOOR_H_
#define DSRUN_AGENT_WORKER_DOOR_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/rpc/door.h"
#include "common/rpc/guest_list.h"

namespace dsrun {
class RpcServer;
}

namespace dsrun::agent {

class WorkerDoor {
 public:
  struct Options {
    std::string folder;  // of the agent, private
    int number = 0;      // of the job, among this agent's
    uint32_t uid = 0;    // of the ranks
    int slots = 0;       // ranks here
    // Whether a process is a live rank of this job. Called by the door's thread.
    std::function<absl::Status(int32_t pid, uint32_t uid)> judge;
  };

  // `server` and `guests` must outlive the door. Errors: FAILED_PRECONDITION: the folder cannot be
  // made; RESOURCE_EXHAUSTED, UNAVAILABLE: no socket.
  static absl::StatusOr<std::unique_ptr<WorkerDoor>> Open(Options options, RpcServer* server,
                                                          GuestList* guests);
  // Cuts what is still connected, and removes socket and folder.
  ~WorkerDoor();

  const std::string& socket() const { return socket_; }

 private:
  explicit WorkerDoor(std::string folder);

  const std::string folder_;  // of the job
  const std::string socket_;
  std::unique_ptr<Door> door_;
};

}  // namespace dsrun::agent

#endif  // DSRUN_AGENT_WORKER_DOOR_H_
