// What is Gloo's alone, with ranks as threads: parts of long messages, refusals, cancellation, and
// that generations leave nothing behind.

#include "worker/comm/gloo/gloo_communicator.h"

#include <dirent.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>

#include "common/base/clock.h"
#include "tests/worker/comm/barrier.h"
#include "tests/worker/comm/in_memory_rendezvous.h"
#include "tests/worker/comm/rank_threads.h"
#include "worker/comm/core/collectives.h"
#include "worker/comm/gloo/membership_proof.h"

namespace dsrun::worker {
namespace {

using ::testing::HasSubstr;

int EntriesOf(const char* folder_name) {
  DIR* folder = opendir(folder_name);
  int count = 0;
  while (readdir(folder) != nullptr) ++count;
  closedir(folder);
  return count;
}

TEST(GlooCommunicatorTest, FiftyGenerations_AbortedOrNot_LeaveNoSocketAndNoThread) {
  { Group first = MakeGroup(Backend::kGloo, 3); }  // what the libraries keep for good
  const int descriptors = EntriesOf("/proc/self/fd");
  const int threads = EntriesOf("/proc/self/task");
  for (int generation = 0; generation < 50; ++generation) {
    Group group = MakeGroup(Backend::kGloo, 3);
    if (generation % 2 == 0) {
      BackgroundCall blocked([&] { return Barrier(*group[0], "barrier"); });
      group[0]->Abort("next generation");
      ASSERT_TRUE(blocked.WaitUntilDone());
      EXPECT_EQ(blocked.result().code(), absl::StatusCode::kAborted);
    } else {
      RunRanks(3, [&](int rank) {
        EXPECT_TRUE(Barrier(*group[static_cast<size_t>(rank)], "barrier").ok());
      });
    }
    RunRanks(3, [&](int rank) { group[static_cast<size_t>(rank)].reset(); });
  }
  EXPECT_EQ(EntriesOf("/proc/self/fd"), descriptors);
  // The kernel may need a moment to forget a thread that was joined; then as now.
  const SteadyTime deadline = Clock::Real().SteadyNow() + absl::Seconds(20);
  while (EntriesOf("/proc/self/task") > threads && Clock::Real().SteadyNow() < deadline) {
  }
  EXPECT_LE(EntriesOf("/proc/self/task"), threads);
}

TEST(GlooCommunicatorTest, Destruction_AfterAbort_IsQuick) {
  Group group = MakeGroup(Backend::kGloo, 8);
  group[0]->Abort("next generation");
  const SteadyTime start = Clock::Real().SteadyNow();
  group[0].reset();
  EXPECT_LT(Clock::Real().SteadyNow() - start, absl::Seconds(1));
}

TEST(GlooCommunicatorTest, LongMessages_TravelInPartsAndArriveWhole) {
  Group group = MakeGroup(Backend::kGloo, 2, absl::Seconds(20), /*part_bytes=*/1000);
  std::string out(123456, '\0');
  for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<char>(i * 31 + i / 1000);
  RunRanks(2, [&](int rank) {
    const auto in = Broadcast(*group[static_cast<size_t>(rank)], 0, rank == 0 ? out : "", "parts");
    ASSERT_TRUE(in.ok()) << in.status();
    EXPECT_TRUE(*in == out);
  });
}

TEST(GlooCommunicatorTest, Messages_OfManyMegabytes_Arrive) {
  Group group = MakeGroup(Backend::kGloo, 2);
  constexpr size_t kBytes = size_t{64} << 20;
  RunRanks(2, [&](int rank) {
    std::vector<uint64_t> out(kBytes / 8), in(kBytes / 8);
    for (size_t i = 0; i < out.size(); ++i) out[i] = i * 2 + static_cast<size_t>(rank);
    const SendOp send{1 - rank, out.data(), kBytes};
    const RecvOp recv{1 - rank, in.data(), kBytes};
    const absl::Status status =
        group[static_cast<size_t>(rank)]->Exchange({&send, 1}, {&recv, 1}, "64 MB");
    ASSERT_TRUE(status.ok()) << status;
    for (size_t i = 0; i < in.size(); ++i) {
      ASSERT_EQ(in[i], i * 2 + static_cast<size_t>(1 - rank));
    }
  });
}

// Without a check, sizes that differ must end in the deadline and not in the end of the process.
TEST(GlooCommunicatorTest, MessageOfAnotherSize_EndsInTheDeadline) {
  Group group = MakeGroup(Backend::kGloo, 2, absl::Milliseconds(200));
  RunRanks(2, [&](int rank) {
    char data[8] = {};
    const SendOp send{1, data, 4};
    const RecvOp recv{0, data, 8};
    Communicator& comm = *group[static_cast<size_t>(rank)];
    const absl::Status status =
        rank == 0 ? comm.Exchange({&send, 1}, {}, "odd") : comm.Exchange({}, {&recv, 1}, "odd");
    // Whose deadline comes first closes the connection, which the other may see.
    EXPECT_TRUE(status.code() == absl::StatusCode::kDeadlineExceeded ||
                status.code() == absl::StatusCode::kUnavailable)
        << status;
  });
}

struct Identity {
  std::string token = "token";
  int64_t generation = 1;
  std::string bind_address = "127.0.0.1";
};

std::vector<absl::Status> CreateAll(const std::vector<Identity>& identities) {
  const int size = static_cast<int>(identities.size());
  InMemoryRendezvousTable table(size);
  std::vector<absl::Status> results(identities.size());
  RunRanks(size, [&](int rank) {
    const Identity& identity = identities[static_cast<size_t>(rank)];
    GlooOptions options;
    options.rank = rank;
    options.size = size;
    options.job_token = identity.token;
    options.generation = identity.generation;
    options.bind_address = identity.bind_address;
    const std::unique_ptr<Rendezvous> rendezvous = table.ForRank(rank);
    auto result = GlooCommunicator::Create(options, *rendezvous);
    results[static_cast<size_t>(rank)] = result.status();
    if (!result.ok() && result.status().code() == absl::StatusCode::kInvalidArgument) {
      table.Cancel();
    }
  });
  return results;
}

TEST(GlooCommunicatorTest, PeerOfAnotherGeneration_IsRefusedAndNamed) {
  const auto results = CreateAll({{}, {"token", 2, "127.0.0.1"}, {}});
  EXPECT_EQ(results[0].code(), absl::StatusCode::kPermissionDenied) << results[0];
  EXPECT_EQ(PeerRank(results[0]), 1);
  EXPECT_EQ(results[2].code(), absl::StatusCode::kPermissionDenied) << results[2];
  EXPECT_EQ(PeerRank(results[2]), 1);
  EXPECT_EQ(results[1].code(), absl::StatusCode::kPermissionDenied) << results[1];
}

TEST(GlooCommunicatorTest, Ranks_OnSeveralLoopbackAddresses_Meet) {
  const auto results =
      CreateAll({{"t", 1, "127.0.0.3"}, {"t", 1, "127.0.0.1"}, {"t", 1, "127.0.0.2"}});
  for (const absl::Status& result : results) EXPECT_TRUE(result.ok()) << result;
}

TEST(GlooCommunicatorTest, BindAddress_OfAnotherMachine_IsAnInvalidArgument) {
  const auto results = CreateAll({{"t", 1, "192.0.2.1"}, {}});
  EXPECT_EQ(results[0].code(), absl::StatusCode::kInvalidArgument) << results[0];
  EXPECT_THAT(std::string(results[0].message()), HasSubstr("192.0.2.1"));
  EXPECT_EQ(results[1].code(), absl::StatusCode::kCancelled) << results[1];
}

TEST(GlooCommunicatorTest, GroupOfOne_UsesNoRendezvousAndNoNetwork) {
  InMemoryRendezvousTable table(1);
  table.Cancel();
  const int descriptors = EntriesOf("/proc/self/fd");
  const std::unique_ptr<Rendezvous> rendezvous = table.ForRank(0);
  const auto communicator = GlooCommunicator::Create(GlooOptions{}, *rendezvous);
  ASSERT_TRUE(communicator.ok()) << communicator.status();
  EXPECT_EQ(EntriesOf("/proc/self/fd"), descriptors);
  EXPECT_TRUE(Barrier(**communicator, "alone").ok());
}

TEST(MembershipProofTest, Proof_DependsOnTokenGenerationGroupAndDirection) {
  const MembershipProof proof = MakeMembershipProof("token", 1, "world", 0, 1);
  EXPECT_TRUE(SameProof(proof, MakeMembershipProof("token", 1, "world", 0, 1)));
  EXPECT_FALSE(SameProof(proof, MakeMembershipProof("tokem", 1, "world", 0, 1)));
  EXPECT_FALSE(SameProof(proof, MakeMembershipProof("token", 2, "world", 0, 1)));
  EXPECT_FALSE(SameProof(proof, MakeMembershipProof("token", 1, "other", 0, 1)));
  EXPECT_FALSE(SameProof(proof, MakeMembershipProof("token", 1, "world", 1, 0)));
}

}  // namespace
}  // namespace dsrun::worker
