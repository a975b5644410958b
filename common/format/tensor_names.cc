#include "common/format/tensor_names.h"

#include <utility>

namespace dsrun {
namespace {

// Then and now.
constexpr std::pair<std::string_view, std::string_view> kSlots[] = {
    {"adam_m/", "state/exp_avg/"}, {"adam_v/", "state/exp_avg_sq/"}};

std::string Exchanged(std::string_view name, std::string_view from, std::string_view to) {
  return std::string(to) + std::string(name.substr(from.size()));
}

}  // namespace

std::string FromFormat1Name(std::string_view name) {
  for (const auto& [then, now] : kSlots) {
    if (name.starts_with(then)) return Exchanged(name, then, now);
  }
  return std::string(name);
}

std::string ToFormat1Name(std::string_view name) {
  for (const auto& [then, now] : kSlots) {
    if (name.starts_with(now)) return Exchanged(name, now, then);
  }
  return std::string(name);
}

}  // namespace dsrun
