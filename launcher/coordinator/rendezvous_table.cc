#include "launcher/coordinator/rendezvous_table.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/counted.h"

namespace dsrun::launcher {

void RendezvousTable::Reset(int width) {
  width_ = width;
  open_.clear();
  answered_.clear();
}

std::optional<proto::ExchangeTable> RendezvousTable::Put(Rank rank, const std::string& name,
                                                         std::string value) {
  if (answered_.contains(name)) return std::nullopt;
  std::map<Rank, std::string>& values = open_[name];
  values.try_emplace(rank, std::move(value));
  if (static_cast<int>(values.size()) < width_) return std::nullopt;
  proto::ExchangeTable table;
  table.set_name(name);
  for (auto& [unused, bytes] : values) table.add_values(std::move(bytes));
  open_.erase(name);
  answered_.insert(name);
  return table;
}

std::string RendezvousTable::ToString() const {
  std::string text;
  for (const auto& [name, values] : open_) {
    absl::StrAppend(&text, text.empty() ? "" : " ", name, "=", values.size(), "/", width_);
  }
  for (const std::string& name : answered_) {
    absl::StrAppend(&text, text.empty() ? "" : " ", name, "=answered");
  }
  return text;
}

proto::RendezvousState RendezvousTable::Snapshot() const {
  const auto& [width, open, answered] = *this;
  proto::RendezvousState snapshot;
  snapshot.set_width(width);
  for (const auto& [name, values] : open) {
    proto::RendezvousState::Name* to = snapshot.add_open();
    to->set_name(name);
    for (const auto& [rank, value] : values) {
      proto::RendezvousState::Value* put = to->add_values();
      put->set_rank(rank.value());
      put->set_value(value);
    }
  }
  for (const std::string& name : answered) snapshot.add_answered(name);
  return snapshot;
}

absl::StatusOr<RendezvousTable> RendezvousTable::Restore(int width,
                                                         const proto::RendezvousState& snapshot) {
  if (snapshot.width() != width) {
    return absl::DataLossError(absl::StrCat(
        "its rendezvous is of ", Counted(snapshot.width(), "rank"), ", its plan has ", width));
  }
  RendezvousTable table;
  table.width_ = width;
  for (const proto::RendezvousState::Name& name : snapshot.open()) {
    std::map<Rank, std::string>& values = table.open_[name.name()];
    for (const proto::RendezvousState::Value& put : name.values()) {
      if (put.rank() < 0 || put.rank() >= width) {
        return absl::DataLossError(
            absl::StrCat("rank ", put.rank(), " of ", width, " in its rendezvous"));
      }
      values.emplace(Rank(put.rank()), put.value());
    }
  }
  table.answered_.insert(snapshot.answered().begin(), snapshot.answered().end());
  return table;
}

}  // namespace dsrun::launcher
