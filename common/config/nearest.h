// The known name that a mistyped one most likely meant. Pure.

#ifndef DSRUN_COMMON_CONFIG_NEAREST_H_
#define DSRUN_COMMON_CONFIG_NEAREST_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace dsrun {

// Letters to insert, delete, replace or swap with their neighbour to get from `a` to `b`.
size_t EditDistance(std::string_view a, std::string_view b);

// The nearest of `known` (the first of equals), or "" when none is near: more than a third of the
// letters would have to change. Dashes and underscores count as one letter, as does case.
std::string NearestName(std::string_view got, const std::vector<std::string>& known);

// "; did you mean X?", or "" when nothing is near.
std::string DidYouMean(std::string_view got, const std::vector<std::string>& known);

}  // namespace dsrun

#endif  // DSRUN_COMMON_CONFIG_NEAREST_H_
