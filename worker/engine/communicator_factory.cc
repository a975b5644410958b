#include "worker/engine/communicator_factory.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/comm/core/checked_communicator.h"
#include "worker/comm/gloo/gloo_communicator.h"
#include "worker/comm/shared_memory/shared_memory_communicator.h"

namespace dsrun::worker {
namespace {

// Enough for the first steps of a generation: a rank that runs another program than its peers
// differs from the start.
constexpr uint64_t kCheckedOperations = 64;

absl::StatusOr<CheckPolicy> PolicyOf(const std::string& name) {
  if (name == "off") return CheckPolicy::Off();
  if (name == "always") return CheckPolicy::Always();
  if (name == "start" || name.empty()) return CheckPolicy::Start(kCheckedOperations);
  return absl::InvalidArgumentError(
      absl::StrCat("--check-collectives must be start, always or off, got \"", name, "\""));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> BuildCommunicator(const CommunicatorRequest& request,
                                                                Rendezvous& rendezvous) {
  ASSIGN_OR_RETURN(const CheckPolicy policy, PolicyOf(request.check));
  GlooOptions options;
  options.rank = request.rank;
  options.size = request.size;
  options.group = request.name;
  options.bind_address = request.bind_address;
  options.timeout = request.timeout;
  options.connect_timeout = request.connect_timeout;
  options.job_token = request.job_token;
  options.generation = request.generation.value();
  options.cancelled = request.cancelled;
  ASSIGN_OR_RETURN(std::unique_ptr<Communicator> communicator,
                   GlooCommunicator::Create(options, rendezvous));
  if (request.shared_memory) {
    SharedMemoryOptions shared;
    shared.group = request.name;
    shared.node = request.bind_address;
    shared.timeout = request.timeout;
    ASSIGN_OR_RETURN(communicator,
                     CreateSharedMemoryCommunicator(std::move(communicator), shared, rendezvous));
  }
  return CreateCheckedCommunicator(std::move(communicator), policy);
}

absl::StatusOr<std::unique_ptr<ProcessGroups>> BuildProcessGroups(
    const CommunicatorRequest& request, const Mesh& mesh, Rank rank, std::vector<GroupLane> lanes,
    const GroupRendezvous& rendezvous) {
  const GroupConnector connect =
      [&](const ProcessGroup& group, int rank_in_group,
          const std::string& name) -> absl::StatusOr<std::unique_ptr<Communicator>> {
    CommunicatorRequest one = request;
    one.rank = rank_in_group;
    one.size = group.size();
    one.name = name;
    const std::unique_ptr<Rendezvous> meeting = rendezvous(group.name);
    return BuildCommunicator(one, *meeting);
  };
  return ProcessGroups::Create(mesh, rank, std::move(lanes), connect);
}

}  // namespace dsrun::worker
