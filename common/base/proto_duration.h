// google.protobuf.Duration, the wire's way to say how long, as absl::Duration and back. The wire
// ends at 10,000 years (duration.proto): that and more is infinite on our side, and the other way
// round. Pure.

#ifndef DSRUN_COMMON_BASE_PROTO_DURATION_H_
#define DSRUN_COMMON_BASE_PROTO_DURATION_H_

#include <google/protobuf/duration.pb.h>

#include <cstdint>

#include "absl/time/time.h"

namespace dsrun {

inline constexpr int64_t kMostProtoSeconds = 315'576'000'000;

inline absl::Duration FromProto(const google::protobuf::Duration& duration) {
  if (duration.seconds() >= kMostProtoSeconds) return absl::InfiniteDuration();
  if (duration.seconds() <= -kMostProtoSeconds) return -absl::InfiniteDuration();
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

// For limits: one that is not set, or not positive, is `otherwise`.
inline absl::Duration PositiveOr(const google::protobuf::Duration& duration,
                                 absl::Duration otherwise) {
  const absl::Duration value = FromProto(duration);
  return value > absl::ZeroDuration() ? value : otherwise;
}

// What is less than a nanosecond is cut off.
inline google::protobuf::Duration ToProto(absl::Duration duration) {
  google::protobuf::Duration proto;
  const absl::Duration most = absl::Seconds(kMostProtoSeconds);
  if (duration >= most || duration <= -most) {
    proto.set_seconds(duration > absl::ZeroDuration() ? kMostProtoSeconds : -kMostProtoSeconds);
    return proto;
  }
  proto.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  proto.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
  return proto;
}

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_PROTO_DURATION_H_
