#include "launcher/coordinator/cause_chooser.h"

#include <algorithm>

namespace dsrun::launcher {
namespace {

void Lower(absl::Duration& earliest, absl::Duration time) { earliest = std::min(earliest, time); }

}  // namespace

int CauseWeight(const Failure& failure) {
  switch (failure.kind) {
    case Failure::Kind::kWorkerExited:
      return failure.killed_by_agent ? 1 : 0;
    case Failure::Kind::kNodeLost:
    case Failure::Kind::kNodeNotOpened:
      return 0;
    case Failure::Kind::kWorkerNotJoined:
    case Failure::Kind::kWorkerMissed:
      return 1;
    case Failure::Kind::kWorkerReported:
      return failure.fatal || failure.replace_process ? 0 : 2;
  }
  return 2;
}

void CauseChooser::Add(const Failure& failure) {
  Entry entry{.weight = CauseWeight(failure),
              .node = failure.node,
              .node_time = failure.node_time,
              .wall_time = failure.wall_time,
              .earliest = std::nullopt,
              .latest = absl::InfiniteDuration(),
              .noticed_at = failure.noticed_at,
              .turn = ++last_turn_};
  if (failure.happened_at) {
    entry.earliest = *failure.happened_at - failure.happened_within;
    entry.latest = *failure.happened_at + failure.happened_within;
  }
  Kind& kind = kinds_[static_cast<size_t>(entry.weight)];
  Remember(entry, kind);
  entries_.push_back(entry);
  const Place place = PlaceOf(entries_.size() - 1);
  kind.open.insert(place);
  if (!kind.first || place < *kind.first) kind.first = place;
}

void CauseChooser::Remember(const Entry& entry, Kind& kind) {
  NodeTimes& times = kind.nodes[entry.node];
  if (entry.node_time) Lower(times.node_time, *entry.node_time);
  if (entry.wall_time) {
    Lower(times.wall_time, *entry.wall_time);
    if (!entry.node_time) Lower(times.wall_time_alone, *entry.wall_time);
  }
  if (!entry.earliest) return;
  const std::pair<absl::Duration, NodeId> sure = {entry.latest, entry.node};
  if (sure.second == kind.surest.second) {
    Lower(kind.surest.first, sure.first);
  } else if (sure.first < kind.surest.first) {
    kind.surest_elsewhere = std::exchange(kind.surest, sure);
  } else if (sure.first < kind.surest_elsewhere.first) {
    kind.surest_elsewhere = sure;
  }
}

bool CauseChooser::IsPreceded(const Entry& entry, const Kind& kind) {
  const NodeTimes& times = kind.nodes.at(entry.node);
  if (entry.node_time && times.node_time < *entry.node_time) return true;
  // Two that both have the node's time are told apart by that alone.
  const absl::Duration wall = entry.node_time ? times.wall_time_alone : times.wall_time;
  if (entry.wall_time && wall < *entry.wall_time) return true;
  const absl::Duration elsewhere =
      kind.surest.second == entry.node ? kind.surest_elsewhere.first : kind.surest.first;
  return entry.earliest && elsewhere < *entry.earliest;
}

size_t CauseChooser::Choose() {
  const auto strongest = std::find_if(kinds_.begin(), kinds_.end(),
                                      [](const Kind& kind) { return kind.first.has_value(); });
  Kind& kind = *strongest;
  while (!kind.open.empty() && IsPreceded(entries_[std::get<size_t>(*kind.open.begin())], kind)) {
    kind.open.erase(kind.open.begin());
  }
  const size_t cause = std::get<size_t>(kind.open.empty() ? *kind.first : *kind.open.begin());
  if (cause_ != cause) MoveToTheFront(cause, kind);
  cause_ = cause;
  return cause;
}

void CauseChooser::MoveToTheFront(size_t number, Kind& kind) {
  const bool was_open = kind.open.erase(PlaceOf(number)) > 0;
  entries_[number].turn = --first_turn_;
  const Place place = PlaceOf(number);
  if (was_open) kind.open.insert(place);
  // Its old place may have been the first; the new one is before it.
  kind.first = std::min(*kind.first, place);
}

}  // namespace dsrun::launcher
