#include "common/model/name_pattern.h"

#include <regex>

namespace dsrun {
namespace {

// The library goes as deep as an expression nests.
constexpr size_t kMostPattern = 1000;  // bytes

}  // namespace

// The library throws; nothing of it goes further.
absl::StatusOr<std::vector<std::string>> MatchingNames(const std::string& pattern,
                                                       const std::vector<std::string>& names) {
  if (pattern.size() > kMostPattern) {
    return absl::InvalidArgumentError("it has more than " + std::to_string(kMostPattern) +
                                      " bytes");
  }
  std::vector<std::string> matching;
  try {
    // Without going back (which `(.*)*(.*)*@` would do for ever), so without back-references.
    const std::regex expression(pattern,
                                std::regex::ECMAScript | std::regex_constants::__polynomial);
    for (const std::string& name : names) {
      if (std::regex_search(name, expression)) matching.push_back(name);
    }
  } catch (const std::regex_error& error) {
    return absl::InvalidArgumentError(error.what());
  }
  return matching;
}

}  // namespace dsrun
