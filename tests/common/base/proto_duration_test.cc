#include "common/base/proto_duration.h"

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace dsrun {
namespace {

TEST(ProtoDuration, ThereAndBack_IsTheSame) {
  for (const absl::Duration each :
       {absl::ZeroDuration(), absl::Nanoseconds(1), absl::Nanoseconds(-1), absl::Milliseconds(1500),
        absl::Milliseconds(-1500), absl::Hours(24 * 365 * 1000) + absl::Nanoseconds(999'999'999)}) {
    EXPECT_EQ(FromProto(ToProto(each)), each);
  }
}

// google/protobuf/duration.proto: both parts have the same sign, nanos stay below a second.
TEST(ProtoDuration, Parts_AreNormal) {
  const google::protobuf::Duration negative = ToProto(absl::Milliseconds(-1500));
  EXPECT_EQ(negative.seconds(), -1);
  EXPECT_EQ(negative.nanos(), -500'000'000);
}

TEST(ProtoDuration, NotSetOrNotPositive_IsTheOther) {
  const absl::Duration other = absl::Seconds(7);
  EXPECT_EQ(PositiveOr(google::protobuf::Duration(), other), other);
  EXPECT_EQ(PositiveOr(ToProto(absl::Seconds(-1)), other), other);
  EXPECT_EQ(PositiveOr(ToProto(absl::Seconds(1)), other), absl::Seconds(1));
}

}  // namespace
}  // namespace dsrun
