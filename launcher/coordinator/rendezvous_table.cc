#include "launcher/coordinator/rendezvous_table.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

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

std::vector<Rank> RendezvousTable::Missing(const std::string& name) const {
  std::vector<Rank> missing;
  const auto found = open_.find(name);
  if (found == open_.end()) return missing;
  for (int i = 0; i < width_; ++i) {
    if (!found->second.contains(Rank(i))) missing.push_back(Rank(i));
  }
  return missing;
}

std::vector<std::string> RendezvousTable::OpenNames() const {
  std::vector<std::string> names;
  for (const auto& [name, unused] : open_) names.push_back(name);
  return names;
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

}  // namespace dsrun::launcher
