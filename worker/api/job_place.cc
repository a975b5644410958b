#include "worker/api/job_place.h"

#include <cstdlib>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace dsrun {
namespace {

absl::StatusOr<int64_t> Number(const JobPlace::Lookup& lookup, const char* name, int64_t least,
                               int64_t most, std::optional<int64_t> fallback) {
  const std::optional<std::string> text = lookup(name);
  if (!text.has_value() && fallback.has_value()) return *fallback;
  int64_t value = 0;
  if (text.has_value() && absl::SimpleAtoi(*text, &value) && value >= least && value <= most) {
    return value;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "environment variable ", name, ": expected a number from ", least, " to ", most, ", got ",
      text.has_value() ? absl::StrCat("\"", *text, "\"") : "nothing",
      "; start the program with dsrun, or without any of its variables as the only rank"));
}

}  // namespace

absl::StatusOr<JobPlace> JobPlace::From(const Lookup& lookup) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  JobPlace place;
  place.job = lookup("TORCHELASTIC_RUN_ID").value_or("");
  if (!lookup("RANK").has_value() && !lookup("WORLD_SIZE").has_value()) return place;
  ASSIGN_OR_RETURN(const int64_t size, Number(lookup, "WORLD_SIZE", 1, kMost, std::nullopt));
  ASSIGN_OR_RETURN(const int64_t rank, Number(lookup, "RANK", 0, size - 1, std::nullopt));
  ASSIGN_OR_RETURN(const int64_t local, Number(lookup, "LOCAL_WORLD_SIZE", 1, size, size));
  ASSIGN_OR_RETURN(const int64_t restarts,
                   Number(lookup, "TORCHELASTIC_RESTART_COUNT", 0, kMost, 0));
  place.size = static_cast<int>(size);
  place.rank = static_cast<int>(rank);
  place.local_size = static_cast<int>(local);
  place.generation = restarts + 1;
  const std::optional<std::string> address = lookup("MASTER_ADDR");
  if (place.size == 1 || !address.has_value()) return place;
  ASSIGN_OR_RETURN(const int64_t port, Number(lookup, "MASTER_PORT", 1, 65535, std::nullopt));
  // The one name that needs no resolver: what it means is known.
  const std::string numeric = *address == "localhost" ? "127.0.0.1" : *address;
  const bool is_v6 = numeric.find(':') != std::string::npos && !numeric.starts_with("[");
  place.address = is_v6 ? absl::StrCat("[", numeric, "]:", port) : absl::StrCat(numeric, ":", port);
  return place;
}

absl::StatusOr<JobPlace> JobPlace::FromEnvironment() {
  return From([](const char* name) -> std::optional<std::string> {
    const char* const value = std::getenv(name);
    return value == nullptr ? std::nullopt : std::optional<std::string>(value);
  });
}

}  // namespace dsrun
