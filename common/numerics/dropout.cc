#include "common/numerics/dropout.h"

#include <charconv>
#include <system_error>

namespace dsrun {

std::string DropoutWord(double rate) {
  if (rate == 0) return "";
  char word[32];
  const auto [end, error] = std::to_chars(word, word + sizeof(word), rate);
  return std::string(word, end);
}

std::optional<double> DropoutOfWord(const std::string& word) {
  if (word.empty()) return 0;
  double rate = 0;
  const char* const end = word.data() + word.size();
  const auto [stop, error] = std::from_chars(word.data(), end, rate);
  if (error != std::errc() || stop != end || !IsDropoutRate(rate)) return std::nullopt;
  return rate;
}

}  // namespace dsrun
