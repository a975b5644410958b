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

std::optional<proto::ExchangeTable> RendezvousTable::Put(const std::string& group, int size,
                                                         Rank rank, const std::string& name,
                                                         std::string value) {
  const Key key(group, name);
  if (answered_.contains(key)) return std::nullopt;
  std::map<Rank, std::string>& values = open_[key];
  values.try_emplace(rank, std::move(value));
  if (static_cast<int>(values.size()) < size) return std::nullopt;
  proto::ExchangeTable table;
  table.set_group(group);
  table.set_name(name);
  for (auto& [unused, bytes] : values) table.add_values(std::move(bytes));
  open_.erase(key);
  answered_.insert(key);
  return table;
}

std::string RendezvousTable::ToString() const {
  const auto words = [](const Key& key) {
    return key.first.empty() ? key.second : absl::StrCat(key.second, " of ", key.first);
  };
  std::string text;
  for (const auto& [key, values] : open_) {
    absl::StrAppend(&text, text.empty() ? "" : " ", words(key), "=", values.size(),
                    key.first.empty() ? absl::StrCat("/", width_) : "");
  }
  for (const Key& key : answered_) {
    absl::StrAppend(&text, text.empty() ? "" : " ", words(key), "=answered");
  }
  return text;
}

proto::RendezvousState RendezvousTable::Snapshot() const {
  const auto& [width, open, answered] = *this;
  proto::RendezvousState snapshot;
  snapshot.set_width(width);
  for (const auto& [key, values] : open) {
    proto::RendezvousState::Name* to = snapshot.add_open();
    to->set_group(key.first);
    to->set_name(key.second);
    for (const auto& [rank, value] : values) {
      proto::RendezvousState::Value* put = to->add_values();
      put->set_rank(rank.value());
      put->set_value(value);
    }
  }
  for (const Key& key : answered) {
    proto::RendezvousState::Name* to = snapshot.add_answered();
    to->set_group(key.first);
    to->set_name(key.second);
  }
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
    std::map<Rank, std::string>& values = table.open_[{name.group(), name.name()}];
    for (const proto::RendezvousState::Value& put : name.values()) {
      if (put.rank() < 0 || put.rank() >= width) {
        return absl::DataLossError(
            absl::StrCat("rank ", put.rank(), " of ", width, " in its rendezvous"));
      }
      values.emplace(Rank(put.rank()), put.value());
    }
  }
  for (const proto::RendezvousState::Name& name : snapshot.answered()) {
    table.answered_.emplace(name.group(), name.name());
  }
  return table;
}

}  // namespace dsrun::launcher
