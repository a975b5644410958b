#include "common/config/byte_size.h"

#include <charconv>
#include <cmath>
#include <string>

namespace dsrun {
namespace {

// 0: there is no such unit.
double UnitOf(std::string_view text) {
  std::string unit;
  for (const char c : text) unit += static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  if (unit.empty() || unit == "b") return 1;
  const size_t power = std::string_view("kmgtp").find(unit.front());
  if (power == std::string_view::npos) return 0;
  const std::string_view rest = std::string_view(unit).substr(1);
  const double of_thousands = std::pow(1000, static_cast<double>(power + 1));
  const double of_1024 = std::ldexp(1.0, static_cast<int>(10 * (power + 1)));
  if (rest == "b") return of_thousands;
  return rest.empty() || rest == "ib" ? of_1024 : 0;
}

}  // namespace

std::optional<int64_t> ParseByteSize(std::string_view text) {
  double number = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  if (error != std::errc() || !std::isfinite(number)) return std::nullopt;
  std::string_view unit(stop, static_cast<size_t>(end - stop));
  if (unit.size() > 1 && unit.front() == ' ') unit.remove_prefix(1);
  const double bytes = number * UnitOf(unit);
  if (UnitOf(unit) == 0 || bytes < 0 || bytes >= 9.2e18) return std::nullopt;
  return static_cast<int64_t>(bytes);
}

}  // namespace dsrun
