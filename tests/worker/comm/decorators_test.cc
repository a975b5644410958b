// Decorators stacked as they are used: the check over faults over threads, and the reduction on
// top.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "tests/worker/comm/barrier.h"
#include "tests/worker/comm/faulty_communicator.h"
#include "tests/worker/comm/rank_threads.h"
#include "worker/comm/core/checked_communicator.h"
#include "worker/comm/in_process/in_process_communicator.h"

namespace dsrun::worker {
namespace {

using ::testing::HasSubstr;
using Kind = CommunicatorFault::Kind;

// Two ranks; rank 1 has the faults.
Group FaultyPair(std::vector<CommunicatorFault> faults) {
  Group group = CreateInProcessGroup(2, InProcessOptions{absl::Seconds(20)});
  group[1] = CreateFaultyCommunicator(std::move(group[1]), std::move(faults));
  return group;
}

TEST(FaultyCommunicatorTest, Fail_AtTheSecondCall_LeavesTheFirstAndEndsTheRest) {
  Group group = FaultyPair({{Kind::kFail, 2, absl::UnavailableError("cable cut")}});
  std::vector<absl::Status> last(2);
  RunRanks(2, [&](int rank) {
    Communicator& comm = *group[static_cast<size_t>(rank)];
    EXPECT_TRUE(Barrier(comm, "first").ok());
    last[static_cast<size_t>(rank)] = Barrier(comm, "second");
    if (rank == 1) {
      EXPECT_EQ(Barrier(comm, "third"), last[1]);
      group[1].reset();  // what a rank does with a dead communicator
    }
  });
  EXPECT_THAT(std::string(last[1].message()), HasSubstr("cable cut"));
  EXPECT_EQ(last[0].code(), absl::StatusCode::kUnavailable) << last[0];
  EXPECT_EQ(PeerRank(last[0]), 1);
}

TEST(FaultyCommunicatorTest, Drop_OfOneMessage_EndsInThePeersDeadline) {
  Group group = FaultyPair({{Kind::kDrop, 1}});
  group[0]->SetTimeout(absl::Seconds(1));  // who waits longer here would miss the other one's too
  RunRanks(2, [&](int rank) {
    const absl::Status status = Barrier(*group[static_cast<size_t>(rank)], "lost");
    if (rank == 1) {
      EXPECT_TRUE(status.ok()) << status;
      return;
    }
    EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("'lost'"));
  });
}

TEST(FaultyCommunicatorTest, Delay_RunsTheHookAndThenBehaves) {
  std::atomic<bool> hook_ran = false;
  Group group = FaultyPair({{Kind::kDelay, 1, absl::OkStatus(), [&] { hook_ran = true; }}});
  RunRanks(2, [&](int rank) {
    EXPECT_TRUE(Barrier(*group[static_cast<size_t>(rank)], "late").ok());
    EXPECT_TRUE(hook_ran);
  });
}

// Two checks on the way; a policy of two leaves the third operation unchecked.
TEST(CheckedCommunicatorTest, PolicyStart_ChecksTheFirstOperationsOnly) {
  Group group = CreateInProcessGroup(2, {});
  for (auto& rank : group) rank = CreateCheckedCommunicator(std::move(rank), CheckPolicy::Start(2));
  RunRanks(2, [&](int rank) {
    Communicator& comm = *group[static_cast<size_t>(rank)];
    EXPECT_TRUE(Barrier(comm, "first").ok());
    EXPECT_TRUE(Barrier(comm, "second").ok());
    EXPECT_TRUE(Barrier(comm, rank == 0 ? "third" : "something else").ok());
  });
}

TEST(CheckedCommunicatorTest, PolicyOff_ChecksNothing) {
  Group group = CreateInProcessGroup(2, {});
  for (auto& rank : group) rank = CreateCheckedCommunicator(std::move(rank), CheckPolicy::Off());
  RunRanks(2, [&](int rank) {
    EXPECT_TRUE(
        Barrier(*group[static_cast<size_t>(rank)], rank == 0 ? "first" : "something else").ok());
  });
}

// Every rank skips one operation with another rank: the numbers between two ranks still agree.
TEST(CheckedCommunicatorTest, Operations_OfSomeRanksOnly_DoNotCountForTheOthers) {
  Group group = MakeGroup(Backend::kCheckedInProcess, 3);
  RunRanks(3, [&](int rank) {
    Communicator& comm = *group[static_cast<size_t>(rank)];
    char byte = 'x';
    const SendOp send{1, &byte, 1};
    const RecvOp recv{0, &byte, 1};
    absl::Status status;
    if (rank == 0) status.Update(comm.Exchange({&send, 1}, {}, "0 to 1"));
    if (rank == 1) status.Update(comm.Exchange({}, {&recv, 1}, "0 to 1"));
    status.Update(Barrier(comm, "all"));
    EXPECT_TRUE(status.ok()) << status;
  });
}

TEST(PeerRankTest, PeerRank_SurvivesAndIsMinusOneWithoutPeer) {
  EXPECT_EQ(PeerRank(absl::OkStatus()), -1);
  EXPECT_EQ(PeerRank(absl::UnavailableError("x")), -1);
  EXPECT_EQ(PeerRank(WithPeerRank(absl::UnavailableError("x"), 17)), 17);
  EXPECT_TRUE(WithPeerRank(absl::OkStatus(), 17).ok());
}

}  // namespace
}  // namespace dsrun::worker
