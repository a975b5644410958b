// google.protobuf.Duration, the wire's way to say how long, as absl::Duration and back. Pure.

#ifndef DSRUN_COMMON_BASE_PROTO_DURATION_H_
#define DSRUN_COMMON_BASE_PROTO_DURATION_H_

#include <google/protobuf/duration.pb.h>

#include <cstdint>

#include "absl/time/time.h"

namespace dsrun {

inline absl::Duration FromProto(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

// For limits: one that is not set, or not positive, is `otherwise`.
inline absl::Duration PositiveOr(const google::protobuf::Duration& duration,
                                 absl::Duration otherwise) {
  const absl::Duration value = FromProto(duration);
  return value > absl::ZeroDuration() ? value : otherwise;
}

// What is less than a nanosecond is cut off. REQUIRES: finite.
inline google::protobuf::Duration ToProto(absl::Duration duration) {
  google::protobuf::Duration proto;
  proto.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  proto.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
  return proto;
}

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_PROTO_DURATION_H_
