#include "worker/data/token_ids.h"

#include <cstddef>

#include "absl/strings/str_cat.h"

namespace dsrun::worker {
namespace {

absl::Status Wrong(const char* what, size_t position, int32_t id, int64_t vocab_size) {
  return absl::InvalidArgumentError(absl::StrCat(
      what, " at position ", position, ": expected an id from 0 to ", vocab_size - 1,
      ", the vocabulary of the model, got ", id, "; the text was made for another vocabulary"));
}

}  // namespace

absl::Status CheckTokens(std::span<const int32_t> tokens, std::span<const int32_t> targets,
                         int64_t vocab_size) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= vocab_size) return Wrong("token", i, tokens[i], vocab_size);
  }
  for (size_t i = 0; i < targets.size(); ++i) {
    if (targets[i] >= vocab_size) return Wrong("target", i, targets[i], vocab_size);
  }
  return absl::OkStatus();
}

}  // namespace dsrun::worker
