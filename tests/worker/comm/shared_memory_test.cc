// What shared memory adds to what every communicator does: rings that damaged positions cannot lead
// astray, ranks of several nodes, and groups where some pairs cannot share.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/worker/comm/in_memory_rendezvous.h"
#include "tests/worker/comm/rank_threads.h"
#include "worker/comm/core/collectives.h"
#include "worker/comm/in_process/in_process_communicator.h"
#include "worker/comm/shared_memory/shared_memory_communicator.h"
#include "worker/comm/shared_memory/shared_memory_inbox.h"
#include "worker/comm/shared_memory/shared_memory_ring.h"

namespace dsrun::worker {
namespace {

using ::testing::HasSubstr;

TEST(RingTest, PiecesOfAnySize_ArriveInOrderAcrossThreads) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(seed);
  const auto positions = std::make_unique<RingPositions>();
  std::vector<char> memory(61);  // a prime: pieces end everywhere
  constexpr size_t kTotal = 300000;
  std::thread writing([&] {
    RingWriter writer(positions.get(), memory.data(), memory.size());
    std::mt19937 random(seed);
    char piece[100];
    for (size_t sent = 0; sent < kTotal;) {
      const size_t want = std::min<size_t>(kTotal - sent, 1 + random() % sizeof(piece));
      for (size_t i = 0; i < want; ++i) piece[i] = static_cast<char>((sent + i) * 7);
      const size_t wrote = writer.Write(piece, want);
      ASSERT_LE(wrote, want);
      sent += wrote;
      if (wrote == 0) std::this_thread::yield();
    }
  });
  RingReader reader(positions.get(), memory.data(), memory.size());
  std::mt19937 random(seed + 1);
  size_t wrong = 0;
  char piece[100];
  for (size_t got = 0; got < kTotal;) {
    const size_t read = reader.Read(piece, 1 + random() % sizeof(piece));
    for (size_t i = 0; i < read; ++i) wrong += piece[i] != static_cast<char>((got + i) * 7);
    got += read;
    if (read == 0) std::this_thread::yield();
  }
  writing.join();
  EXPECT_EQ(wrong, 0u);
}

TEST(RingTest, FullRing_TakesNothingUntilItIsRead_AndTheReaderIsAsked) {
  const auto positions = std::make_unique<RingPositions>();
  char memory[8];
  RingWriter writer(positions.get(), memory, sizeof(memory));
  RingReader reader(positions.get(), memory, sizeof(memory));
  EXPECT_EQ(writer.Write("0123456789", 10), 8u);
  EXPECT_EQ(writer.Write("89", 2), 0u);
  EXPECT_TRUE(writer.AskForSpace());
  char out[10];
  EXPECT_EQ(reader.Read(out, 3), 3u);
  EXPECT_TRUE(reader.WriterAsked());
  EXPECT_FALSE(reader.WriterAsked());
  EXPECT_FALSE(writer.AskForSpace());
  EXPECT_EQ(writer.Write("89", 2), 2u);
  EXPECT_EQ(reader.Read(out + 3, 7), 7u);
  EXPECT_EQ(std::string(out, 10), "0123456789");
}

// The address sanitizer and the guards around the memory would see an access outside.
TEST(RingTest, DamagedPositions_NeverLeadOutsideTheRing) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  std::vector<char> memory(16 + 64 + 16, 'g');
  char piece[200] = {};
  for (int trial = 0; trial < 10000; ++trial) {
    const auto positions = std::make_unique<RingPositions>();
    RingWriter writer(positions.get(), memory.data() + 16, 64);
    RingReader reader(positions.get(), memory.data() + 16, 64);
    for (int i = 0; i < 4; ++i) {
      positions->written = random();
      positions->read = random();
      EXPECT_LE(writer.Write(piece, random() % sizeof(piece)), 64u);
      EXPECT_LE(reader.Read(piece, random() % sizeof(piece)), 64u);
    }
  }
  EXPECT_EQ(std::string(memory.data(), 16), std::string(16, 'g'));
  EXPECT_EQ(std::string(memory.data() + 80, 16), std::string(16, 'g'));
}

TEST(InboxTest, AnotherWordOrDescriptor_IsRefused) {
  auto inbox = SharedInbox::Create(2, 4096);
  ASSERT_TRUE(inbox.ok()) << inbox.status();
  InboxAddress address = (*inbox)->address();
  EXPECT_TRUE(SharedInbox::Open(address, 2, 4096).ok());
  EXPECT_FALSE(SharedInbox::Open(address, 3, 4096).ok());  // another size
  address.word[3] ^= 1;
  EXPECT_THAT(std::string(SharedInbox::Open(address, 2, 4096).status().message()),
              HasSubstr("another inbox"));
  address.fd = 0;
  EXPECT_FALSE(SharedInbox::Open(address, 2, 4096).ok());
  address.pid = 0x3fffffff;  // beyond what Linux gives
  EXPECT_FALSE(SharedInbox::Open(address, 2, 4096).ok());
}

TEST(InboxTest, FirstEnd_Stays) {
  auto inbox = SharedInbox::Create(4, 4096);
  ASSERT_TRUE(inbox.ok()) << inbox.status();
  EXPECT_FALSE((*inbox)->ended());
  (*inbox)->SetEnded(3);
  (*inbox)->SetEnded(-1);
  EXPECT_TRUE((*inbox)->ended());
  EXPECT_EQ((*inbox)->ended_because_of(), 3);
}

// Rank r says that it is on `nodes[r]`.
void ShareNodes(const std::vector<std::string>& nodes, Group& group) {
  const int size = static_cast<int>(nodes.size());
  InMemoryRendezvousTable table(size);
  RunRanks(size, [&](int rank) {
    SharedMemoryOptions options;
    options.node = nodes[static_cast<size_t>(rank)];
    const std::unique_ptr<Rendezvous> door = table.ForRank(rank);
    auto& mine = group[static_cast<size_t>(rank)];
    auto made = CreateSharedMemoryCommunicator(std::move(mine), options, *door);
    ASSERT_TRUE(made.ok()) << made.status();
    mine = *std::move(made);
  });
}

// The same over in-process communicators.
Group MakeNodes(const std::vector<std::string>& nodes) {
  Group group =
      CreateInProcessGroup(static_cast<int>(nodes.size()), InProcessOptions{absl::Seconds(20)});
  ShareNodes(nodes, group);
  return group;
}

TEST(SharedMemoryTest, RanksOfSeveralNodes_ReachEachOther) {
  Group group = MakeNodes({"a", "b", "a", "a", "c", "b"});
  RunRanks(6, [&](int rank) {
    for (int round = 0; round < 3; ++round) {
      const auto all = AllGather(*group[static_cast<size_t>(rank)],
                                 std::string(5000, static_cast<char>('A' + rank)), "gather");
      ASSERT_TRUE(all.ok()) << all.status();
      for (int peer = 0; peer < 6; ++peer) {
        EXPECT_EQ((*all)[static_cast<size_t>(peer)],
                  std::string(5000, static_cast<char>('A' + peer)));
      }
    }
  });
}

// A communicator that nobody may use, and that says when it goes.
class NamedRank : public Communicator {
 public:
  NamedRank(int rank, int size, std::atomic<int>& alive) : rank_(rank), size_(size), alive_(alive) {
    ++alive_;
  }
  ~NamedRank() override { --alive_; }
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  absl::Status Exchange(std::span<const SendOp>, std::span<const RecvOp>,
                        const std::string&) override {
    return absl::InternalError("used");
  }
  void SetTimeout(absl::Duration) override {}
  void Abort(const std::string&) override {}

 private:
  const int rank_;
  const int size_;
  std::atomic<int>& alive_;
};

TEST(SharedMemoryTest, CommunicatorInside_IsDroppedWhereAllRanksShareANode) {
  for (const auto& [nodes, kept] : std::vector<std::pair<std::vector<std::string>, int>>{
           {{"a", "a", "a"}, 0}, {{"a", "a", "b"}, 3}}) {
    std::atomic<int> alive = 0;
    Group group;
    for (int rank = 0; rank < 3; ++rank) {
      group.push_back(std::make_unique<NamedRank>(rank, 3, alive));
    }
    ShareNodes(nodes, group);
    EXPECT_EQ(alive, kept);
    RunRanks(2, [&](int rank) {  // ranks 0 and 1 share a node
      const auto i = static_cast<size_t>(rank);
      char mine = static_cast<char>('A' + rank);
      char theirs = 0;
      const SendOp send{1 - rank, &mine, 1};
      const RecvOp recv{1 - rank, &theirs, 1};
      EXPECT_EQ(group[i]->Exchange({&send, 1}, {&recv, 1}, "greeting"), absl::OkStatus());
      EXPECT_EQ(theirs, 'A' + 1 - rank);
      EXPECT_EQ(group[i]->rank(), rank);
      EXPECT_EQ(group[i]->size(), 3);
    });
    for (auto& rank : group) rank->Abort("the test is over");
    char byte = 0;
    const RecvOp recv{1, &byte, 1};
    EXPECT_EQ(group[0]->Exchange({}, {&recv, 1}, "late").code(), absl::StatusCode::kAborted);
  }
}

TEST(SharedMemoryTest, MessageOfAnotherSize_IsNamedWithBothSizes) {
  Group group = MakeNodes({"a", "a"});
  char data[8] = {};
  const SendOp send{1, data, 8};
  ASSERT_TRUE(group[0]->Exchange({&send, 1}, {}, "bucket 3").ok());  // the ring holds it
  const RecvOp recv{0, data, 4};
  const absl::Status status = group[1]->Exchange({}, {&recv, 1}, "bucket 3");
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_EQ(PeerRank(status), 0);
  EXPECT_THAT(std::string(status.message()), HasSubstr("with 4 bytes, but got message 0 with 8"));
}

// Rank 0 waits for rank 1, which waits for rank 2, which goes: both name rank 2.
TEST(SharedMemoryTest, PeerThatFailedBecauseOfAnother_PointsToTheOther) {
  Group group = MakeNodes({"a", "a", "a"});
  char bytes[2] = {};
  const RecvOp from_1{1, bytes, 1};
  const RecvOp from_2{2, bytes + 1, 1};
  BackgroundCall first([&] { return group[0]->Exchange({}, {&from_1, 1}, "loss"); });
  BackgroundCall second([&] { return group[1]->Exchange({}, {&from_2, 1}, "loss"); });
  ASSERT_TRUE(first.WaitUntilBlocked());
  ASSERT_TRUE(second.WaitUntilBlocked());
  group[2].reset();
  ASSERT_TRUE(second.WaitUntilDone());
  EXPECT_EQ(PeerRank(second.result()), 2) << second.result();
  ASSERT_TRUE(first.WaitUntilDone());
  EXPECT_EQ(PeerRank(first.result()), 2) << first.result();
}

TEST(SharedMemoryTest, MalformedPlace_IsAnError) {
  class BadRendezvous : public Rendezvous {
    absl::StatusOr<std::vector<std::string>> Exchange(const std::string&,
                                                      const std::string& mine) override {
      return std::vector<std::string>{mine, "kernel pid:[1] 12 many words node"};
    }
  } rendezvous;
  Group group = CreateInProcessGroup(2, InProcessOptions{absl::Seconds(20)});
  const auto made =
      CreateSharedMemoryCommunicator(std::move(group[0]), SharedMemoryOptions{}, rendezvous);
  EXPECT_EQ(made.status().code(), absl::StatusCode::kInvalidArgument) << made.status();
}

}  // namespace
}  // namespace dsrun::worker
