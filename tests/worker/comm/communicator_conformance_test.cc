// What every Communicator must do, whatever carries the bytes: one suite over all backends and
// numbers of ranks.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <tuple>

#include "common/base/clock.h"
#include "tests/worker/comm/barrier.h"
#include "tests/worker/comm/rank_threads.h"
#include "worker/comm/core/collectives.h"
#include "worker/comm/core/communicator.h"

namespace dsrun::worker {
namespace {

using ::testing::HasSubstr;

constexpr size_t kSizes[] = {0, 1, 7, 1000, 100003};

// Bytes that tell sender, receiver and position apart.
std::string Pattern(int from, int to, size_t bytes) {
  std::string text(bytes, '\0');
  unsigned state = 2654435761u * static_cast<unsigned>(from * 64 + to + 1);
  for (char& c : text) {
    state = state * 1664525u + 1013904223u;
    c = static_cast<char>(state >> 24);
  }
  return text;
}

class CommunicatorTest : public ::testing::TestWithParam<std::tuple<Backend, int>> {
 protected:
  Backend backend() const { return std::get<0>(GetParam()); }
  int size() const { return std::get<1>(GetParam()); }
  static Communicator& At(Group& group, int rank) { return *group[static_cast<size_t>(rank)]; }
};

// All ranks to all ranks, themselves included, `bytes` each.
void ExchangeAll(Communicator& comm, size_t bytes) {
  std::vector<std::string> out, in;
  std::vector<SendOp> sends;
  std::vector<RecvOp> recvs;
  for (int peer = 0; peer < comm.size(); ++peer) {
    out.push_back(Pattern(comm.rank(), peer, bytes));
    in.emplace_back(bytes, '\0');
  }
  for (int peer = 0; peer < comm.size(); ++peer) {
    const auto i = static_cast<size_t>(peer);
    sends.push_back({peer, out[i].data(), bytes});
    recvs.push_back({peer, in[i].data(), bytes});
  }
  const absl::Status status = comm.Exchange(sends, recvs, "exchange");
  ASSERT_TRUE(status.ok()) << status;
  for (int peer = 0; peer < comm.size(); ++peer) {
    EXPECT_TRUE(in[static_cast<size_t>(peer)] == Pattern(peer, comm.rank(), bytes))
        << bytes << " bytes from rank " << peer << " to rank " << comm.rank();
  }
}

TEST_P(CommunicatorTest, Exchange_OfAnySize_DeliversEveryByte) {
  Group group = MakeGroup(backend(), size());
  RunRanks(size(), [&](int rank) {
    EXPECT_EQ(At(group, rank).rank(), rank);
    EXPECT_EQ(At(group, rank).size(), size());
    for (const size_t bytes : kSizes) ExchangeAll(At(group, rank), bytes);
  });
}

TEST_P(CommunicatorTest, Exchange_OfSeveralMessagesToOnePeer_KeepsTheirOrder) {
  Group group = MakeGroup(backend(), size());
  RunRanks(size(), [&](int rank) {
    const int next = (rank + 1) % size();
    const int previous = (rank + size() - 1) % size();
    std::vector<std::string> out, in;
    std::vector<SendOp> sends;
    std::vector<RecvOp> recvs;
    for (size_t i = 0; i < 20; ++i) {
      out.push_back(Pattern(rank, next, kSizes[i % 5]) + std::string(kSizes[i % 5] > 0, 'x'));
      in.emplace_back(out.back().size(), '\0');
      if (!out.back().empty()) out.back().back() = static_cast<char>(i);
    }
    for (size_t i = 0; i < out.size(); ++i) {
      sends.push_back({next, out[i].data(), out[i].size()});
      recvs.push_back({previous, in[i].data(), in[i].size()});
    }
    const absl::Status status = At(group, rank).Exchange(sends, recvs, "ring");
    ASSERT_TRUE(status.ok()) << status;
    for (size_t i = 0; i < in.size(); ++i) {
      if (in[i].empty()) continue;
      EXPECT_EQ(in[i].back(), static_cast<char>(i));
      EXPECT_TRUE(in[i].substr(0, kSizes[i % 5]) == Pattern(previous, rank, kSizes[i % 5]));
    }
  });
}

// One message of a round: who sends it to whom, and which of them it is.
std::string Numbered(int round, int from, int to, size_t number, size_t bytes) {
  std::string text(bytes, static_cast<char>(1 + number));
  const std::string name = std::to_string(round) + " " + std::to_string(from) + ">" +
                           std::to_string(to) + " " + std::to_string(number);
  text.replace(0, name.size(), name);
  return text;
}

// Several messages of one size from every peer, received {p, q, p, q, ...} and sent in another
// order: only peer and order tell which is which. Peers come early or late by turns, so that some
// messages arrive while others are being copied.
TEST_P(CommunicatorTest, Exchange_WithInterleavedPeers_MatchesByPeerAndOrder) {
  constexpr int kRounds = 60;
  constexpr size_t kMessages = 3;
  Group group = MakeGroup(backend(), size());
  RunRanks(size(), [&](int rank) {
    for (int round = 0; round < kRounds; ++round) {
      const size_t bytes = round % 3 == 0 ? 40 : round % 3 == 1 ? 4000 : 60000;
      std::vector<std::string> out, in;
      for (int peer = 0; peer < size(); ++peer) {
        for (size_t number = 0; number < kMessages; ++number) {
          out.push_back(Numbered(round, rank, peer, number, bytes));
          in.emplace_back(bytes, '\0');
        }
      }
      std::vector<SendOp> sends;
      std::vector<RecvOp> recvs;
      const auto at = [&](int peer, size_t number) {
        return static_cast<size_t>(peer) * kMessages + number;
      };
      for (int peer = size() - 1; peer >= 0; --peer) {
        for (size_t number = 0; number < kMessages; ++number) {
          sends.push_back({peer, out[at(peer, number)].data(), bytes});
        }
      }
      for (size_t number = 0; number < kMessages; ++number) {
        for (int turn = 0; turn < size(); ++turn) {
          const int peer = (turn + round) % size();
          recvs.push_back({peer, in[at(peer, number)].data(), bytes});
        }
      }
      for (int late = 0; late < (rank + round) % size(); ++late) std::this_thread::yield();
      const absl::Status status = At(group, rank).Exchange(sends, recvs, "interleaved");
      ASSERT_TRUE(status.ok()) << status;
      for (int peer = 0; peer < size(); ++peer) {
        for (size_t number = 0; number < kMessages; ++number) {
          ASSERT_TRUE(in[at(peer, number)] == Numbered(round, peer, rank, number, bytes))
              << "round " << round << ": expected message " << number << " of rank " << peer
              << ", got " << in[at(peer, number)].substr(0, 20);
        }
      }
    }
  });
}

TEST_P(CommunicatorTest, AllGather_OfUnequalSizes_GivesEverybodyAll) {
  Group group = MakeGroup(backend(), size());
  RunRanks(size(), [&](int rank) {
    for (size_t round = 0; round < 5; ++round) {
      const auto bytes = [&](int r) { return kSizes[(static_cast<size_t>(r) + round) % 5]; };
      const auto all = AllGather(At(group, rank), Pattern(rank, 0, bytes(rank)), "gather");
      ASSERT_TRUE(all.ok()) << all.status();
      ASSERT_EQ(static_cast<int>(all->size()), size());
      for (int r = 0; r < size(); ++r) {
        EXPECT_TRUE((*all)[static_cast<size_t>(r)] == Pattern(r, 0, bytes(r))) << "of rank " << r;
      }
    }
  });
}

TEST_P(CommunicatorTest, Broadcast_FromEveryRoot_GivesEverybodyTheRootsBytes) {
  Group group = MakeGroup(backend(), size());
  RunRanks(size(), [&](int rank) {
    for (int root = 0; root < size(); ++root) {
      for (const size_t bytes : kSizes) {
        const auto result = Broadcast(At(group, rank), root,
                                      rank == root ? Pattern(root, 1, bytes) : "", "broadcast");
        ASSERT_TRUE(result.ok()) << result.status();
        EXPECT_TRUE(*result == Pattern(root, 1, bytes)) << bytes << " bytes from " << root;
      }
    }
  });
}

TEST_P(CommunicatorTest, Barrier_EndsOnlyAfterEverybodyHasCome) {
  Group group = MakeGroup(backend(), size());
  std::atomic<int> arrived = 0;
  RunRanks(size(), [&](int rank) {
    for (int round = 1; round <= 20; ++round) {
      ++arrived;
      ASSERT_TRUE(Barrier(At(group, rank), "barrier").ok());
      EXPECT_GE(arrived.load(), round * size());
    }
  });
}

TEST_P(CommunicatorTest, Abort_WhileBlocked_WakesAndEveryLaterCallGivesTheFirstError) {
  Group group = MakeGroup(backend(), size());
  Communicator& comm = At(group, 0);
  if (size() > 1) {
    BackgroundCall blocked([&] { return Barrier(comm, "nobody else comes"); });
    ASSERT_TRUE(blocked.WaitUntilBlocked());
    comm.Abort("generation 7 is over");
    ASSERT_TRUE(blocked.WaitUntilDone());
    EXPECT_EQ(blocked.result().code(), absl::StatusCode::kAborted) << blocked.result();
  } else {
    comm.Abort("generation 7 is over");
  }
  comm.Abort("a second reason");
  char byte = 0;
  const SendOp send{size() - 1, &byte, 1};
  const RecvOp recv{size() - 1, &byte, 1};
  for (int i = 0; i < 2; ++i) {
    const absl::Status later = comm.Exchange({&send, 1}, {&recv, 1}, "later");
    EXPECT_EQ(later.code(), absl::StatusCode::kAborted);
    EXPECT_THAT(std::string(later.message()), HasSubstr("generation 7 is over"));
  }
}

TEST_P(CommunicatorTest, PeerDestroyed_WhileOthersAreBlocked_IsUnavailableAndNamed) {
  if (size() == 1) GTEST_SKIP() << "a group of one has no peer";
  Group group = MakeGroup(backend(), size());
  const int victim = size() - 1;
  std::vector<std::unique_ptr<BackgroundCall>> blocked;
  for (int rank = 0; rank < victim; ++rank) {
    blocked.push_back(std::make_unique<BackgroundCall>(
        [&group, rank] { return Barrier(At(group, rank), "barrier 5"); }));
  }
  for (auto& call : blocked) ASSERT_TRUE(call->WaitUntilBlocked());
  group[static_cast<size_t>(victim)].reset();
  for (auto& call : blocked) {
    ASSERT_TRUE(call->WaitUntilDone());
    const absl::Status status = call->result();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_EQ(PeerRank(status), victim) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("barrier 5"));
  }
  const absl::Status later = Barrier(At(group, 0), "later");
  EXPECT_EQ(later, blocked[0]->result());
}

TEST_P(CommunicatorTest, PeerSilent_UntilTheDeadline_IsNamedTogetherWithTheOperation) {
  if (size() == 1) GTEST_SKIP() << "a group of one has no peer";
  // Not a whole number of milliseconds: a wait that ends in the last fraction of one would name
  // another cause than the deadline.
  Group group = MakeGroup(backend(), size(), absl::Microseconds(100900));
  const int silent = size() - 1;
  // Only rank 0 waits, and only for one rank: the others must not run into their own deadline.
  char byte = 0;
  const RecvOp recv{silent, &byte, 1};
  const absl::Status status = At(group, 0).Exchange({}, {&recv, 1}, "loss of step 3");
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
  EXPECT_EQ(PeerRank(status), silent);
  EXPECT_THAT(std::string(status.message()), HasSubstr("loss of step 3"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("rank " + std::to_string(silent)));
}

TEST_P(CommunicatorTest, PeerLeaves_AfterItsLastMessage_DoesNotDisturbTheOthers) {
  Group group = MakeGroup(backend(), size());
  RunRanks(size(), [&](int rank) {
    ASSERT_TRUE(Barrier(At(group, rank), "first").ok());
    ExchangeAll(At(group, rank), 100003);
    group[static_cast<size_t>(rank)].reset();
  });
}

INSTANTIATE_TEST_SUITE_P(
    All, CommunicatorTest,
    ::testing::Combine(::testing::Values(Backend::kInProcess, Backend::kGloo,
                                         Backend::kSharedMemory, Backend::kSharedMemoryGloo,
                                         Backend::kCheckedInProcess, Backend::kCheckedGloo,
                                         Backend::kCheckedSharedMemory, Backend::kQueuedInProcess),
                       ::testing::Values(1, 2, 3, 4, 8)),
    [](const auto& info) {
      return BackendName(std::get<0>(info.param)) + "_" + std::to_string(std::get<1>(info.param));
    });

class CheckedTest : public ::testing::TestWithParam<Backend> {};

TEST_P(CheckedTest, Ranks_AtDifferentOperations_BothSeeBothSides) {
  Group group = MakeGroup(GetParam(), 3);
  std::vector<absl::Status> errors(3);
  RunRanks(3, [&](int rank) {
    Communicator& comm = *group[static_cast<size_t>(rank)];
    ASSERT_TRUE(Barrier(comm, "warm-up").ok());
    if (rank == 2) {
      errors[2] = AllGather(comm, "abc", "all-gather params").status();
    } else {
      errors[static_cast<size_t>(rank)] = Barrier(comm, "end of step");
    }
  });
  EXPECT_EQ(errors[0].code(), absl::StatusCode::kFailedPrecondition) << errors[0];
  EXPECT_EQ(PeerRank(errors[0]), 2);
  EXPECT_THAT(std::string(errors[0].message()),
              HasSubstr("rank 2 is at operation 2 'all-gather params (sizes)' 8 bytes, but rank 0 "
                        "is at operation 2 'end of step' 1 bytes"));
  EXPECT_EQ(errors[2].code(), absl::StatusCode::kFailedPrecondition) << errors[2];
  EXPECT_THAT(std::string(errors[2].message()), HasSubstr("'end of step' 1 bytes, but rank 2"));
  EXPECT_EQ(Barrier(*group[0], "later"), errors[0]);
}

TEST_P(CheckedTest, Ranks_WithDifferentSizes_SeeWhoSendsWhat) {
  Group group = MakeGroup(GetParam(), 2);
  std::vector<absl::Status> errors(2);
  RunRanks(2, [&](int rank) {
    std::string data(100, 'd');
    const size_t bytes = rank == 0 ? 64 : 100;
    const SendOp send{1 - rank, data.data(), bytes};
    std::string in(100, '\0');
    const RecvOp recv{1 - rank, in.data(), bytes};
    errors[static_cast<size_t>(rank)] =
        group[static_cast<size_t>(rank)]->Exchange({&send, 1}, {&recv, 1}, "bucket 3");
  });
  for (const absl::Status& error : errors) {
    EXPECT_EQ(error.code(), absl::StatusCode::kFailedPrecondition) << error;
  }
  EXPECT_THAT(std::string(errors[0].message()),
              HasSubstr("(1 to 0: sends 100, expected 64; 0 to 1: sends 64, expected 100)"));
}

INSTANTIATE_TEST_SUITE_P(All, CheckedTest,
                         ::testing::Values(Backend::kCheckedInProcess, Backend::kCheckedGloo,
                                           Backend::kCheckedSharedMemory),
                         [](const auto& info) { return BackendName(info.param); });

}  // namespace
}  // namespace dsrun::worker
