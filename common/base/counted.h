// A number with its noun, for messages: "1 rank", "4 ranks", "2 processes". Pure.

#ifndef DSRUN_COMMON_BASE_COUNTED_H_
#define DSRUN_COMMON_BASE_COUNTED_H_

#include <concepts>
#include <string>
#include <string_view>

namespace dsrun {

// `noun`: of one; its plural ends in s, or in es after s and ch ("process", "batch").
template <std::integral Number>
std::string Counted(Number count, std::string_view noun) {
  const char* plural = count == 1 ? "" : noun.ends_with('s') || noun.ends_with("ch") ? "es" : "s";
  return std::to_string(count).append(" ").append(noun).append(plural);
}

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_COUNTED_H_
