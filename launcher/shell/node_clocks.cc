#include "launcher/shell/node_clocks.h"

#include <cstddef>

#include "common/base/proto_duration.h"

namespace dsrun::launcher {
namespace {

constexpr size_t kRemembered = 8;
// The most by which Linux lets a clock be slewed, 500 parts in a million.
constexpr double kDrift = 500e-6;

}  // namespace

void NodeClock::Add(const RoundTrip& trip) {
  const absl::Duration round_trip = (trip.back - trip.sent) - (trip.answered - trip.heard);
  if (trip.answered < trip.heard || round_trip < absl::ZeroDuration()) return;
  const absl::Duration offset = ((trip.heard - trip.sent) + (trip.answered - trip.back)) / 2;
  samples_.push_back({offset, round_trip / 2, trip.back});
  if (samples_.size() > kRemembered) samples_.pop_front();
}

std::optional<NodeClock::Moment> NodeClock::OnOurs(absl::Duration theirs,
                                                   absl::Duration now) const {
  std::optional<Moment> best;
  for (const Sample& sample : samples_) {
    const absl::Duration age = now - sample.taken_at;
    const absl::Duration within = sample.within + kDrift * age;
    if (!best || within < best->within) best = {theirs - sample.offset, within};
  }
  return best;
}

void NodeClocks::Heard(NodeId node, const proto::AgentHeartbeat& heartbeat, absl::Duration now) {
  if (!heartbeat.has_echo()) return;
  const proto::AgentHeartbeat::Echo& echo = heartbeat.echo();
  clocks_[node].Add(
      {FromProto(echo.sent()), FromProto(echo.heard()), FromProto(echo.answered()), now});
}

void NodeClocks::Correct(NodeId node, absl::Duration now, proto::AgentMessage& message) const {
  if (!message.has_worker_exited()) return;
  proto::WorkerExited& exited = *message.mutable_worker_exited();
  exited.clear_launcher_time();
  exited.clear_launcher_time_within();
  const auto clock = clocks_.find(node);
  if (clock == clocks_.end() || !exited.has_steady_time()) return;
  const std::optional<NodeClock::Moment> moment =
      clock->second.OnOurs(FromProto(exited.steady_time()), now);
  // What an agent sends may be anything; beyond all times there is none.
  if (!moment || absl::AbsDuration(moment->at) == absl::InfiniteDuration() ||
      moment->within == absl::InfiniteDuration()) {
    return;
  }
  *exited.mutable_launcher_time() = ToProto(moment->at);
  *exited.mutable_launcher_time_within() = ToProto(moment->within);
}

}  // namespace dsrun::launcher
