#include "agent/worker_door.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/status_macros.h"
#include "common/rpc/loopback.h"

namespace dsrun::agent {
namespace {

constexpr mode_t kPrivate = 0700;
constexpr mode_t kToPassThrough = 0711;
// A rank has one, and one more while it is replaced.
constexpr size_t kConnectionsPerRank = 2;
// From its connection to its Hello. Hundreds of ranks may be starting on a few cores.
constexpr absl::Duration kHelloWithin = absl::Seconds(30);

absl::Status CannotMake(const std::string& folder, int error) {
  return absl::FailedPreconditionError(absl::StrCat(
      "socket folder: cannot make ", folder, ": ", strerror(error),
      "; has something removed the agent's folder (a cleaner of /tmp)? Start the agent "
      "anew"));
}

// Those above it must let the ranks' user pass.
absl::Status OpenToPass(const std::string& folder) {
  if (chmod(folder.c_str(), kToPassThrough) == 0) return absl::OkStatus();
  return CannotMake(folder, errno);
}

absl::Status Judge(const WorkerDoor::Options& options, const Caller& caller) {
  if (caller.pid == 0) {
    return absl::PermissionDeniedError(
        "is a process that the kernel cannot name here, of another pid namespace; ranks have to "
        "run "
        "in the agent's");
  }
  return options.judge(caller.pid, caller.uid);
}

}  // namespace

absl::StatusOr<std::unique_ptr<WorkerDoor>> WorkerDoor::Open(Options options, RpcServer* server,
                                                             GuestList* guests) {
  const std::string folder = absl::StrCat(options.folder, "/job-", options.number);
  if (mkdir(folder.c_str(), kPrivate) != 0) return CannotMake(folder, errno);
  std::unique_ptr<WorkerDoor> door(new WorkerDoor(folder));
  const uint32_t uid = options.uid;
  const size_t most = kConnectionsPerRank * static_cast<size_t>(options.slots);
  const std::string agents_folder = options.folder;
  Door::Options doors{.name = "the workers' door",
                      .listen = absl::StrCat(kUnixScheme, door->socket_),
                      .cluster_key = "",
                      .owner = uid,
                      .judge = [options = std::move(options)](const Caller& caller) {
                        return Judge(options, caller);
                      }};
  doors.most_proven = most;
  doors.most_of_one = kConnectionsPerRank;
  doors.settle_within = kHelloWithin;
  ASSIGN_OR_RETURN(door->door_, Door::Open(std::move(doors), server, guests));
  // Only now: nobody could reach what was not yet given away.
  if (uid != geteuid()) {
    RETURN_IF_ERROR(OpenToPass(folder));
    RETURN_IF_ERROR(OpenToPass(agents_folder));
  }
  return door;
}

WorkerDoor::WorkerDoor(std::string folder)
    : folder_(std::move(folder)), socket_(absl::StrCat(folder_, "/worker.sock")) {}

WorkerDoor::~WorkerDoor() {
  if (door_ != nullptr) door_->CutAll();
  door_.reset();
  rmdir(folder_.c_str());
}

}  // namespace dsrun::agent
