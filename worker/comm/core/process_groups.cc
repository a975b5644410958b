#include "worker/comm/core/process_groups.h"

#include <algorithm>
#include <span>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/logging.h"
#include "common/base/status_macros.h"
#include "worker/comm/core/queued_communicator.h"

namespace dsrun::worker {
namespace {

class GroupCommunicator : public Communicator {
 public:
  GroupCommunicator(std::unique_ptr<Communicator> inner, ProcessGroup group)
      : inner_(std::move(inner)), group_(std::move(group)) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  absl::Status Exchange(std::span<const SendOp> sends, std::span<const RecvOp> recvs,
                        const std::string& what) override {
    const absl::Status status = inner_->Exchange(sends, recvs, what);
    const int peer = PeerRank(status);
    if (peer < 0 || peer >= group_.size()) {
      return Annotate(status, absl::StrCat("group ", group_.name));
    }
    const int of_world = group_.ranks[static_cast<size_t>(peer)].value();
    return WithPeerRank(Annotate(status, absl::StrCat("group ", group_.name, ", whose rank ", peer,
                                                      " is rank ", of_world, " of all")),
                        of_world);
  }
  void SetTimeout(absl::Duration timeout) override { inner_->SetTimeout(timeout); }
  void Abort(const std::string& reason) override { inner_->Abort(reason); }

 private:
  const std::unique_ptr<Communicator> inner_;
  const ProcessGroup group_;
};

absl::Status Check(const std::vector<GroupLane>& lanes) {
  for (size_t i = 0; i < lanes.size(); ++i) {
    const auto& [axes, lane] = lanes[i];
    const std::string place = absl::StrCat("lane \"", lane, "\" of \"", axes.ToString(), "\"");
    if (!Mesh::HasGroups(axes)) {
      return absl::InvalidArgumentError(
          absl::StrCat(place,
                       ": there are no groups along these axes; give axes of tp, cp, dp and "
                       "pp, or of tp, ep, edp and pp"));
    }
    if (lane.empty() || lane.find('/') != std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat(place, ": expected a name without '/', such as \"gradients\""));
    }
    if (i > 0 && lanes[i - 1].axes == axes && lanes[i - 1].lane == lane) {
      return absl::InvalidArgumentError(absl::StrCat(place, " is asked for twice"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ProcessGroups>> ProcessGroups::Create(
    const Mesh& mesh, Rank rank, std::vector<GroupLane> lanes, const GroupConnector& connect) {
  const auto key = [](const GroupLane& lane) {
    return std::tuple(lane.axes.ToString(), lane.lane);
  };
  std::sort(lanes.begin(), lanes.end(),
            [&](const GroupLane& a, const GroupLane& b) { return key(a) < key(b); });
  RETURN_IF_ERROR(Check(lanes));
  std::unique_ptr<ProcessGroups> groups(new ProcessGroups());
  for (const auto& [axes, lane] : lanes) {
    Entry entry{axes.ToString(), lane, GroupAlong(mesh, axes, rank), nullptr};
    ASSIGN_OR_RETURN(
        std::unique_ptr<Communicator> connected,
        connect(entry.group, *entry.group.RankIn(rank), absl::StrCat(entry.group.name, "/", lane)));
    entry.communicator = QueueOperations(NameRanksOfTheWorld(std::move(connected), entry.group),
                                         absl::StrCat("group ", entry.group.name, ", lane ", lane,
                                                      " of rank ", rank.value(), " of all"));
    groups->entries_.push_back(std::move(entry));
  }
  return groups;
}

AsyncCommunicator& ProcessGroups::At(AxisSet axes, const std::string& lane) const {
  for (const Entry& entry : entries_) {
    if (entry.axes == axes.ToString() && entry.lane == lane) return *entry.communicator;
  }
  LOG(FATAL) << "no lane \"" << lane << "\" of groups along " << axes.ToString();
}

const ProcessGroup& ProcessGroups::GroupAt(AxisSet axes) const {
  for (const Entry& entry : entries_) {
    if (entry.axes == axes.ToString()) return entry.group;
  }
  LOG(FATAL) << "no lane of groups along " << axes.ToString();
}

void ProcessGroups::Abort(const std::string& reason) {
  for (const Entry& entry : entries_) entry.communicator->Abort(reason);
}

absl::Status ProcessGroups::AsyncError() {
  for (const Entry& entry : entries_) {
    absl::Status error = entry.communicator->AsyncError();
    if (!error.ok()) return error;
  }
  return absl::OkStatus();
}

std::unique_ptr<Communicator> NameRanksOfTheWorld(std::unique_ptr<Communicator> inner,
                                                  ProcessGroup group) {
  return std::make_unique<GroupCommunicator>(std::move(inner), std::move(group));
}

}  // namespace dsrun::worker
