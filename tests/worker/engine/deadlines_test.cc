#include "worker/engine/deadlines.h"

#include <limits>
#include <utility>

#include "common/base/proto_duration.h"
#include "common/base/status_macros.h"
#include "gtest/gtest.h"
#include "worker/comm/core/communicator.h"
#include "worker/engine/verdict.h"

namespace dsrun::worker {
namespace {

proto::Limits Limits(absl::Duration collective, absl::Duration first_step) {
  proto::Limits limits;
  *limits.mutable_collective_timeout() = ToProto(collective);
  *limits.mutable_first_step_timeout() = ToProto(first_step);
  return limits;
}

TEST(Deadlines, FirstStep_ComesFromTheWarmUpUpToItsCap) {
  Deadlines deadlines(Limits(absl::Seconds(10), absl::Minutes(10)));
  EXPECT_EQ(deadlines.NextStep(), OperationClass::kFirstStep);
  EXPECT_EQ(deadlines.Exchange(OperationClass::kFirstStep), absl::Minutes(10));  // not known yet
  deadlines.StepEstimated(absl::Milliseconds(100));
  EXPECT_EQ(deadlines.Exchange(OperationClass::kFirstStep), absl::Seconds(10));
  EXPECT_EQ(deadlines.Move(OperationClass::kFirstStep), absl::Seconds(3));
  deadlines.StepEstimated(absl::Seconds(2));
  EXPECT_EQ(deadlines.Exchange(OperationClass::kFirstStep), absl::Minutes(1));
  EXPECT_FALSE(deadlines.FirstStepMayNotFit());
  // gpt2-124m, 512 sequences, on a slow machine: by FLOPs alone this was 4.8 days.
  deadlines.StepEstimated(absl::Hours(24));
  EXPECT_EQ(deadlines.Exchange(OperationClass::kFirstStep), absl::Minutes(10));
  EXPECT_EQ(deadlines.Move(OperationClass::kFirstStep), absl::Minutes(10));
  EXPECT_TRUE(deadlines.FirstStepMayNotFit());
}

TEST(Deadlines, Steps_FollowTheirMedianAboveTheLeast) {
  Deadlines deadlines(Limits(absl::Seconds(10), absl::Minutes(10)));
  deadlines.StepEstimated(absl::Seconds(2));
  deadlines.StepTook(absl::Milliseconds(200));
  EXPECT_EQ(deadlines.NextStep(), OperationClass::kStep);
  EXPECT_EQ(deadlines.Exchange(OperationClass::kStep), absl::Seconds(10));
  EXPECT_EQ(deadlines.Move(OperationClass::kStep), absl::Seconds(2));
  for (int i = 0; i < 40; ++i) deadlines.StepTook(absl::Seconds(3));
  EXPECT_EQ(deadlines.Exchange(OperationClass::kStep), absl::Seconds(30));
  // A few slow ones do not count.
  for (int i = 0; i < 5; ++i) deadlines.StepTook(absl::Seconds(300));
  EXPECT_EQ(deadlines.Exchange(OperationClass::kStep), absl::Seconds(30));
}

TEST(Deadlines, EveryClassHasALimitOfItsOwn_ByDefaultThoseOfTheWire) {
  const Deadlines deadlines((proto::Limits()));
  EXPECT_EQ(deadlines.Move(OperationClass::kJoin), absl::InfiniteDuration());
  EXPECT_EQ(deadlines.Move(OperationClass::kLoad), absl::Minutes(30));
  EXPECT_EQ(deadlines.Move(OperationClass::kInitialize), absl::Minutes(10));
  EXPECT_EQ(deadlines.Move(OperationClass::kFirstStep), absl::Minutes(10));
  EXPECT_EQ(deadlines.Move(OperationClass::kSave), absl::Minutes(30));
  EXPECT_EQ(deadlines.Move(OperationClass::kCommit), absl::Minutes(10));
  EXPECT_EQ(deadlines.Move(OperationClass::kPrune), absl::Minutes(10));
  EXPECT_EQ(deadlines.Move(OperationClass::kEvaluate), absl::Minutes(10));
  proto::Limits limits;
  limits.mutable_save_timeout()->set_seconds(77);
  limits.mutable_load_timeout()->set_seconds(78);
  limits.mutable_initialize_timeout()->set_seconds(79);
  limits.mutable_commit_timeout()->set_seconds(80);
  limits.mutable_prune_timeout()->set_seconds(81);
  limits.mutable_evaluation_timeout()->set_seconds(82);
  const Deadlines set(limits);
  EXPECT_EQ(set.Move(OperationClass::kSave), absl::Seconds(77));
  EXPECT_EQ(set.Move(OperationClass::kLoad), absl::Seconds(78));
  EXPECT_EQ(set.Move(OperationClass::kInitialize), absl::Seconds(79));
  EXPECT_EQ(set.Move(OperationClass::kCommit), absl::Seconds(80));
  EXPECT_EQ(set.Move(OperationClass::kPrune), absl::Seconds(81));
  EXPECT_EQ(set.Move(OperationClass::kEvaluate), absl::Seconds(82));
}

// The rank that hangs is killed by its agent before its peers give it up, and nobody waits for
// rank 0's commit or prune by a limit of training.
TEST(Deadlines, PeersWaitLongerThanTheOneThatHangs) {
  const Deadlines deadlines((proto::Limits()));
  for (const OperationFacts& facts : kOperations) {
    if (!facts.storage) continue;
    EXPECT_GT(deadlines.Exchange(facts.operation), deadlines.Move(facts.operation)) << facts.phase;
  }
  EXPECT_GT(deadlines.Exchange(OperationClass::kCommit),
            deadlines.Move(OperationClass::kCommit) + deadlines.Move(OperationClass::kPrune));
}

TEST(Deadlines, HugeLimitsAndSteps_Saturate) {
  proto::Limits limits = Limits(absl::InfiniteDuration(), absl::InfiniteDuration());
  limits.mutable_save_timeout()->set_seconds(std::numeric_limits<int64_t>::max());
  limits.mutable_load_timeout()->set_seconds(std::numeric_limits<int64_t>::min());
  Deadlines deadlines(limits);
  EXPECT_EQ(deadlines.Exchange(OperationClass::kSave), absl::InfiniteDuration());
  EXPECT_EQ(deadlines.Move(OperationClass::kLoad), absl::Minutes(30));
  deadlines.StepEstimated(absl::Seconds(1e300));
  EXPECT_EQ(deadlines.Exchange(OperationClass::kFirstStep), absl::InfiniteDuration());
  deadlines.StepTook(absl::InfiniteDuration());
  EXPECT_EQ(deadlines.Exchange(OperationClass::kStep), absl::InfiniteDuration());
}

TEST(Deadlines, OneThatHasPassed_NamesItsFlagAndKeepsThePeer) {
  const absl::Status named = Deadlines::NameTheLimit(
      WithPeerRank(absl::DeadlineExceededError("rank 0 waited"), 3), OperationClass::kSave);
  EXPECT_EQ(named.message(), "rank 0 waited; the limit while saving comes from --save-timeout");
  EXPECT_EQ(PeerRank(named), 3);
  EXPECT_EQ(Deadlines::NameTheLimit(absl::AbortedError("x"), OperationClass::kSave),
            absl::AbortedError("x"));
}

TEST(OperationClass, EveryOneIsFoundByItsPhase) {
  for (const OperationFacts& facts : kOperations) {
    EXPECT_STREQ(FactsOf(facts.operation).phase, facts.phase);
    ASSERT_TRUE(FactsOfPhase(facts.phase).has_value());
    EXPECT_EQ(FactsOfPhase(facts.phase)->operation, facts.operation);
  }
  EXPECT_FALSE(FactsOfPhase("waiting for the next generation").has_value());
  EXPECT_FALSE(FactsOfPhase("").has_value());
}

TEST(Verdict, OfEveryCode) {
  const std::pair<absl::StatusCode, proto::Failed::Verdict> expected[] = {
      {absl::StatusCode::kCancelled, proto::Failed::kRetry},
      {absl::StatusCode::kUnknown, proto::Failed::kReplaceProcess},
      {absl::StatusCode::kInvalidArgument, proto::Failed::kEndJob},
      {absl::StatusCode::kDeadlineExceeded, proto::Failed::kRetry},
      {absl::StatusCode::kNotFound, proto::Failed::kEndJob},
      {absl::StatusCode::kAlreadyExists, proto::Failed::kEndJob},
      {absl::StatusCode::kPermissionDenied, proto::Failed::kRetry},
      {absl::StatusCode::kResourceExhausted, proto::Failed::kEndJob},
      {absl::StatusCode::kFailedPrecondition, proto::Failed::kEndJob},
      {absl::StatusCode::kAborted, proto::Failed::kRetry},
      {absl::StatusCode::kOutOfRange, proto::Failed::kEndJob},
      {absl::StatusCode::kUnimplemented, proto::Failed::kEndJob},
      {absl::StatusCode::kInternal, proto::Failed::kReplaceProcess},
      {absl::StatusCode::kUnavailable, proto::Failed::kRetry},
      {absl::StatusCode::kDataLoss, proto::Failed::kRetry},
      {absl::StatusCode::kUnauthenticated, proto::Failed::kEndJob},
  };
  for (const auto& [code, verdict] : expected) {
    EXPECT_EQ(VerdictOf(absl::Status(code, "x")), verdict) << absl::StatusCodeToString(code);
  }
  EXPECT_EQ(VerdictOf(absl::Status(static_cast<absl::StatusCode>(4711), "x")),
            proto::Failed::kReplaceProcess);
}

// Who knows better than its code says so, and it survives what is added on the way up.
TEST(Verdict, OfThePayload_IsStrongerThanTheCode) {
  const absl::Status status =
      WithVerdict(absl::ResourceExhaustedError("sticky"), proto::Failed::kReplaceProcess);
  EXPECT_EQ(VerdictOf(status), proto::Failed::kReplaceProcess);
  EXPECT_EQ(VerdictOf(Annotate(status, "in step 3")), proto::Failed::kReplaceProcess);
  EXPECT_TRUE(WithVerdict(absl::OkStatus(), proto::Failed::kEndJob).ok());
}

}  // namespace
}  // namespace dsrun::worker
