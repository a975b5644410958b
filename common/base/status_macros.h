// RETURN_IF_ERROR and ASSIGN_OR_RETURN for absl::Status, with context added on the way up.
//
//   RETURN_IF_ERROR(ParseLine(line)) << "in hostfile " << path;
//   ASSIGN_OR_RETURN(std::unique_ptr<Server> server, Server::Create(options));
//
// The leaf says what is wrong, each caller says where: the text becomes "in hostfile two.hosts:
// <leaf>". The code and the payloads of the leaf are kept. Debian's Abseil (20220623) does not have
// these macros.

#ifndef DSRUN_COMMON_BASE_STATUS_MACROS_H_
#define DSRUN_COMMON_BASE_STATUS_MACROS_H_

#include <sstream>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace dsrun {

// A status with text added in front: "context: message". OK stays OK. Code and payloads are kept.
absl::Status Annotate(const absl::Status& status, const std::string& context);

namespace status_internal {

// Collects `<< text` behind RETURN_IF_ERROR and turns into an annotated Status (or StatusOr<T>).
class Builder {
 public:
  explicit Builder(absl::Status status) : status_(std::move(status)) {}
  template <typename T>
  Builder&& operator<<(const T& value) && {
    context_ << value;
    return std::move(*this);
  }
  operator absl::Status() && { return Annotate(status_, context_.str()); }
  template <typename T>
  operator absl::StatusOr<T>() && {
    return Annotate(status_, context_.str());
  }

 private:
  absl::Status status_;
  std::ostringstream context_;
};

}  // namespace status_internal
}  // namespace dsrun

#define DSRUN_CONCAT_INNER(a, b) a##b
#define DSRUN_CONCAT(a, b) DSRUN_CONCAT_INNER(a, b)

#define RETURN_IF_ERROR(expr)                                  \
  if (absl::Status dsrun_status = (expr); dsrun_status.ok()) { \
  } else /* NOLINT */                                          \
    return ::dsrun::status_internal::Builder(std::move(dsrun_status))

#define ASSIGN_OR_RETURN(lhs, expr) \
  DSRUN_ASSIGN_OR_RETURN_IMPL(DSRUN_CONCAT(dsrun_statusor_, __LINE__), lhs, expr)

#define DSRUN_ASSIGN_OR_RETURN_IMPL(result, lhs, expr) \
  auto result = (expr);                                \
  if (!result.ok()) return std::move(result).status(); \
  lhs = std::move(result).value()

#endif  // DSRUN_COMMON_BASE_STATUS_MACROS_H_
