// Tensors named by regular expressions: what --freeze and --param-group have in common. Pure.

#ifndef DSRUN_COMMON_MODEL_NAME_PATTERN_H_
#define DSRUN_COMMON_MODEL_NAME_PATTERN_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace dsrun {

// Those of `names` that `pattern` (ECMAScript without back-references) matches somewhere, in their
// order. Takes time in proportion to both, whatever the expression. Errors: INVALID_ARGUMENT: it is
// no expression, or longer than 1,000 bytes.
absl::StatusOr<std::vector<std::string>> MatchingNames(const std::string& pattern,
                                                       const std::vector<std::string>& names);

}  // namespace dsrun

#endif  // DSRUN_COMMON_MODEL_NAME_PATTERN_H_
