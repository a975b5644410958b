#include "common/config/nearest.h"

#include <algorithm>

namespace dsrun {
namespace {

constexpr size_t kLongestName = 64;  // beyond it nothing is a typing mistake

std::string Folded(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '_') {
      out.push_back('-');
    } else if (c >= 'A' && c <= 'Z') {
      out.push_back(static_cast<char>(c - 'A' + 'a'));
    } else {
      out.push_back(c);
    }
  }
  return out;
}

}  // namespace

size_t EditDistance(std::string_view a, std::string_view b) {
  const size_t width = b.size() + 1;
  std::vector<size_t> table((a.size() + 1) * width);
  const auto at = [&](size_t i, size_t j) -> size_t& { return table[i * width + j]; };
  for (size_t i = 0; i <= a.size(); ++i) at(i, 0) = i;
  for (size_t j = 0; j <= b.size(); ++j) at(0, j) = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      size_t best = at(i - 1, j - 1) + (a[i - 1] == b[j - 1] ? 0 : 1);
      best = std::min({best, at(i - 1, j) + 1, at(i, j - 1) + 1});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        best = std::min(best, at(i - 2, j - 2) + 1);
      }
      at(i, j) = best;
    }
  }
  return at(a.size(), b.size());
}

std::string NearestName(std::string_view got, const std::vector<std::string>& known) {
  if (got.empty() || got.size() > kLongestName) return "";
  const std::string folded = Folded(got);
  size_t best = std::max<size_t>(1, got.size() / 3) + 1;
  std::string nearest;
  for (const std::string& name : known) {
    const size_t distance = EditDistance(folded, Folded(name));
    if (distance < best) {
      best = distance;
      nearest = name;
    }
  }
  return nearest;
}

std::string DidYouMean(std::string_view got, const std::vector<std::string>& known) {
  const std::string nearest = NearestName(got, known);
  return nearest.empty() ? "" : "; did you mean " + nearest + "?";
}

}  // namespace dsrun
