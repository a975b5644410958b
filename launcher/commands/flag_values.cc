#include "launcher/commands/flag_values.h"

#include <charconv>
#include <cmath>
#include <cstdio>

#include "common/base/time_text.h"
#include "common/config/nearest.h"

namespace dsrun::launcher {
namespace {

std::string Short(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%g", value);
  return text;
}

template <typename T>
std::optional<T> Parsed(const std::string& text) {
  T value{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end) return std::nullopt;
  return value;
}

}  // namespace

void FlagValues::Wrong(std::string_view name, const std::string& expected, const std::string& got) {
  findings_.AddFlag("--" + std::string(name), "expected " + expected + ", got " + Quoted(got));
}

bool FlagValues::OnOff(std::string_view name, bool otherwise) const {
  const FlagUse* use = uses_.Last(name);
  return use == nullptr ? otherwise : !use->negated;
}

std::optional<std::string> FlagValues::Text(std::string_view name) const {
  const FlagUse* use = uses_.Last(name);
  if (use == nullptr) return std::nullopt;
  return use->value;
}

std::vector<std::string> FlagValues::Texts(std::string_view name) const {
  std::vector<std::string> out;
  for (const FlagUse& use : uses_.all()) {
    if (use.option->name == name) out.push_back(use.value);
  }
  return out;
}

std::optional<std::string> FlagValues::OneOf(std::string_view name,
                                             const std::vector<std::string>& words) {
  const std::optional<std::string> text = Text(name);
  if (!text.has_value()) return std::nullopt;
  std::string all;
  for (const std::string& word : words) {
    if (word == *text) return text;
    all += (all.empty() ? "" : word == words.back() ? " or " : ", ") + word;
  }
  findings_.AddFlag("--" + std::string(name),
                    "expected " + all + ", got " + Quoted(*text) + DidYouMean(*text, words));
  return std::nullopt;
}

std::optional<int64_t> FlagValues::Int(std::string_view name, int64_t least, int64_t most) {
  const std::optional<std::string> text = Text(name);
  if (!text.has_value()) return std::nullopt;
  const std::optional<int64_t> value = Parsed<int64_t>(*text);
  if (value.has_value() && *value >= least && *value <= most) return value;
  const bool open = most == std::numeric_limits<int64_t>::max();
  Wrong(name,
        "an integer " + (open ? "of at least " + std::to_string(least)
                              : "from " + std::to_string(least) + " to " + std::to_string(most)),
        *text);
  return std::nullopt;
}

std::optional<double> FlagValues::Real(std::string_view name, double least, double most,
                                       bool below) {
  const std::optional<std::string> text = Text(name);
  if (!text.has_value()) return std::nullopt;
  const std::optional<double> value = Parsed<double>(*text);
  if (value.has_value() && std::isfinite(*value) && *value >= least &&
      (below ? *value < most : *value <= most)) {
    return value;
  }
  const bool open = most == std::numeric_limits<double>::max();
  Wrong(
      name,
      "a number " + (open ? "of at least " + Short(least)
                          : "from " + Short(least) + (below ? " to below " : " to ") + Short(most)),
      *text);
  return std::nullopt;
}

std::optional<absl::Duration> FlagValues::Time(std::string_view name, absl::Duration least,
                                               absl::Duration most) {
  const std::optional<std::string> text = Text(name);
  if (!text.has_value()) return std::nullopt;
  const std::optional<absl::Duration> value = ParseTime(*text);
  if (value.has_value() && *value >= least && *value <= most) return value;
  Wrong(name,
        "a duration such as 3s or 500ms, from " + absl::FormatDuration(least) + " to " +
            absl::FormatDuration(most),
        *text);
  return std::nullopt;
}

}  // namespace dsrun::launcher
