// Operations that are enqueued and awaited later, over every backend.

#include "worker/comm/core/async_communicator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/worker/comm/barrier.h"
#include "tests/worker/comm/rank_threads.h"
#include "worker/comm/core/queued_communicator.h"

namespace dsrun::worker {
namespace {

using ::testing::HasSubstr;

using Lanes = std::vector<std::unique_ptr<AsyncCommunicator>>;

class AsyncTest : public ::testing::TestWithParam<Backend> {
 protected:
  Lanes MakeLanes(int size) {
    Lanes lanes;
    for (std::unique_ptr<Communicator>& rank : MakeGroup(GetParam(), size)) {
      lanes.push_back(QueueOperations(std::move(rank)));
    }
    return lanes;
  }
  static AsyncCommunicator& At(Lanes& lanes, int rank) { return *lanes[static_cast<size_t>(rank)]; }
};
INSTANTIATE_TEST_SUITE_P(All, AsyncTest,
                         ::testing::Values(Backend::kInProcess, Backend::kGloo,
                                           Backend::kSharedMemory, Backend::kSharedMemoryGloo,
                                           Backend::kCheckedInProcess),
                         [](const auto& info) { return BackendName(info.param); });

TEST_P(AsyncTest, ManyOperations_EnqueuedAtOnce_HappenInTheirOrder) {
  constexpr int kSize = 3;
  constexpr int kMessages = 40;
  Lanes lanes = MakeLanes(kSize);
  RunRanks(kSize, [&](int rank) {
    AsyncCommunicator& lane = At(lanes, rank);
    const int next = (rank + 1) % kSize;
    const int previous = (rank + kSize - 1) % kSize;
    std::vector<int> out, in(kMessages, -1);
    for (int i = 0; i < kMessages; ++i) out.push_back(rank * 1000 + i);
    CommEvent last;
    for (size_t i = 0; i < kMessages; ++i) {
      last =
          lane.Enqueue({{next, &out[i], sizeof(int)}}, {{previous, &in[i], sizeof(int)}}, "ring");
    }
    EXPECT_TRUE(lane.Await({}).ok()) << "nothing was asked for";
    const absl::Status status = lane.Await(last);
    ASSERT_TRUE(status.ok()) << status;
    for (int i = 0; i < kMessages; ++i) {
      EXPECT_EQ(in[static_cast<size_t>(i)], previous * 1000 + i);
    }
    // A blocking one behind them.
    ASSERT_TRUE(Barrier(lane, "barrier").ok());
    EXPECT_TRUE(lane.AsyncError().ok());
  });
}

TEST_P(AsyncTest, AllGather_InPlaceAndNot_AndReduceScatter) {
  constexpr int kSize = 4;
  Lanes lanes = MakeLanes(kSize);
  RunRanks(kSize, [&](int rank) {
    AsyncCommunicator& lane = At(lanes, rank);
    for (const size_t n : {size_t{0}, size_t{1}, size_t{5000}}) {
      const auto value = [](int of, size_t i) {
        return INT64_MAX - static_cast<int64_t>(i) * 3 - of;  // sums run over
      };
      std::vector<int64_t> mine, apart(n * kSize), in_place(n * kSize), sums;
      for (size_t i = 0; i < n; ++i) mine.push_back(value(rank, i));
      std::copy(mine.begin(), mine.end(), in_place.begin() + static_cast<std::ptrdiff_t>(n) * rank);
      for (size_t i = 0; i < n * kSize; ++i) sums.push_back(value(rank, i));
      const auto elements = static_cast<int64_t>(n);
      std::vector<int64_t> scratch(static_cast<size_t>(lane.ScratchElements(elements)));
      const size_t bytes = n * sizeof(int64_t);
      lane.EnqueueAllGather(mine.data(), bytes, apart.data(), "apart");
      lane.EnqueueAllGather(in_place.data() + n * static_cast<size_t>(rank), bytes, in_place.data(),
                            "in place");
      const absl::Status status =
          lane.Await(lane.EnqueueReduceScatter(sums.data(), elements, scratch, "sums"));
      ASSERT_TRUE(status.ok()) << status;
      for (int of = 0; of < kSize; ++of) {
        for (size_t i = 0; i < n; ++i) {
          ASSERT_EQ(apart[static_cast<size_t>(of) * n + i], value(of, i));
        }
      }
      EXPECT_EQ(in_place, apart);
      for (size_t i = 0; i < n; ++i) {
        const size_t at = static_cast<size_t>(rank) * n + i;
        uint64_t want = 0;
        for (int of = 0; of < kSize; ++of) want += static_cast<uint64_t>(value(of, at));
        ASSERT_EQ(static_cast<uint64_t>(sums[at]), want);
      }
    }
  });
}

// Rank 0 enqueues on the first lane and awaits it first, rank 1 on the second: if a lane held up
// the other, each would wait for what its peer has not begun.
TEST_P(AsyncTest, Lanes_WaitForNobodyButThemselves) {
  Lanes first = MakeLanes(2), second = MakeLanes(2);
  RunRanks(2, [&](int rank) {
    const char mine = static_cast<char>(1 + rank);
    std::string in(2, 0);
    const auto enqueue = [&](Lanes& lanes, size_t i) {
      return At(lanes, rank).Enqueue({{1 - rank, &mine, 1}}, {{1 - rank, &in[i], 1}}, "lane");
    };
    Lanes& early = rank == 0 ? first : second;
    Lanes& late = rank == 0 ? second : first;
    const CommEvent of_early = enqueue(early, 0);
    const CommEvent of_late = enqueue(late, 1);
    EXPECT_TRUE(At(early, rank).Await(of_early).ok());
    EXPECT_TRUE(At(late, rank).Await(of_late).ok());
    EXPECT_EQ(in, std::string(2, static_cast<char>(2 - rank)));
  });
}

TEST_P(AsyncTest, Abort_WhileOneIsUnderWay_EndsItAndThoseBehindIt) {
  Lanes lanes = MakeLanes(2);
  AsyncCommunicator& lane = At(lanes, 0);
  std::string in(2, 'x');
  char out = 'a';
  // Rank 1 answers the first one alone.
  const CommEvent first = lane.Enqueue({{1, &out, 1}}, {{1, &in[0], 1}}, "first");
  char answered = 0;
  const SendOp send{0, &out, 1};
  const RecvOp recv{0, &answered, 1};
  ASSERT_TRUE(At(lanes, 1).Exchange({&send, 1}, {&recv, 1}, "first").ok());
  ASSERT_TRUE(lane.Await(first).ok());
  const CommEvent second = lane.Enqueue({}, {{1, &in[1], 1}}, "second");
  const CommEvent third = lane.EnqueueAllGather(&out, 1, in.data(), "third");
  BackgroundCall waiting([&] { return lane.Await(third); });
  ASSERT_TRUE(waiting.WaitUntilBlocked());
  EXPECT_TRUE(lane.AsyncError().ok());
  lane.Abort("its generation is over");
  lane.Abort("another reason");
  ASSERT_TRUE(waiting.WaitUntilDone());
  EXPECT_EQ(waiting.result().code(), absl::StatusCode::kAborted) << waiting.result();
  EXPECT_EQ(lane.Await(second), waiting.result());
  EXPECT_TRUE(lane.Await(first).ok()) << "it had ended before";
  EXPECT_EQ(lane.AsyncError(), waiting.result());
  EXPECT_THAT(std::string(waiting.result().message()), HasSubstr("its generation is over"));
  EXPECT_EQ(in, "ax") << "an operation that was dropped wrote";
  EXPECT_EQ(Barrier(lane, "later").code(), absl::StatusCode::kAborted);
}

TEST_P(AsyncTest, Destroyed_WithOperationsUnderWay_ItLeavesAtOnce) {
  Lanes lanes = MakeLanes(2);
  char in = 0, out = 0;
  At(lanes, 0).Enqueue({}, {{1, &in, 1}}, "nobody sends it");
  At(lanes, 0).Enqueue({{1, &out, 1}}, {}, "nor takes this");
  BackgroundCall leaving([&] {
    lanes[0].reset();
    return absl::OkStatus();
  });
  ASSERT_TRUE(leaving.WaitUntilDone());
  const absl::Status status = At(lanes, 1).Await(At(lanes, 1).Enqueue({}, {{0, &in, 1}}, "alone"));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_EQ(PeerRank(status), 0);
}

TEST_P(AsyncTest, Timeout_IsTheOneInForceWhenItWasEnqueued) {
  Lanes lanes = MakeLanes(2);
  AsyncCommunicator& lane = At(lanes, 0);
  char in = 0;
  lane.SetTimeout(absl::Milliseconds(50));
  const CommEvent silent = lane.Enqueue({}, {{1, &in, 1}}, "loss of step 3");
  lane.SetTimeout(absl::Hours(1));
  const absl::Status status = lane.Await(silent);
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("loss of step 3"));
}

}  // namespace
}  // namespace dsrun::worker
