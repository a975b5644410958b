// Deaths and stops of real processes: what the survivors see, and how soon. Over Gloo alone, and
// with shared memory between the two ranks of one node.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "tests/worker/comm/line_process.h"

namespace dsrun::worker {
namespace {

using ::testing::HasSubstr;

// In ms: where nobody waits for the deadline, which is a minute.
constexpr int64_t kFarBelowTheDeadline = 20000;

// What a rank said after an operation.
struct Done {
  int64_t ms = -1;
  std::string code;
  int peer = -2;
  std::string message;
};

class RankProcess : public LineProcess {
 public:
  RankProcess(int rank, int size, const std::string& address, const std::string& token,
              int timeout_ms, const std::string& transport)
      : LineProcess({"tests/worker/comm/gloo_rank_process", std::to_string(rank),
                     std::to_string(size), address, std::to_string(timeout_ms), transport}) {
    Say(token);
  }

  Done HearDone() {
    std::istringstream words(Hear());
    std::string word;
    Done done;
    words >> word >> done.ms >> done.code >> done.peer;
    std::getline(words, done.message);
    EXPECT_EQ(word, "DONE");
    return done;
  }

  // Lets it leave in order; how long its communicator took to go, in ms.
  int64_t Leave() {
    Say("LEAVE");
    std::istringstream words(Hear());
    std::string word;
    int64_t ms = -1;
    words >> word >> ms;
    ExpectEnd();
    return ms;
  }
};

using Ranks = std::vector<std::unique_ptr<RankProcess>>;

Ranks StartRanks(const std::vector<std::string>& addresses, const std::vector<std::string>& tokens,
                 int timeout_ms = 60000, const std::string& transport = "gloo") {
  Ranks ranks;
  for (size_t rank = 0; rank < addresses.size(); ++rank) {
    ranks.push_back(
        std::make_unique<RankProcess>(static_cast<int>(rank), static_cast<int>(addresses.size()),
                                      addresses[rank], tokens[rank], timeout_ms, transport));
  }
  return ranks;
}

// The table of all blobs, as the coordinator would send it.
std::string CollectTable(Ranks& ranks) {
  std::string table = "TABLE";
  for (auto& rank : ranks) {
    const std::string line = rank->Hear();
    EXPECT_EQ(line.substr(0, 5), "BLOB ");
    table += line.substr(4);
  }
  return table;
}

// Ranks 0 and 2 share a node.
Ranks ConnectedRanks(const std::string& transport) {
  Ranks ranks = StartRanks({"127.0.0.1", "127.0.0.2", "127.0.0.1"}, {"key", "key", "key"},
                           /*timeout_ms=*/60000, transport);
  // Shared memory has two more things to agree about: where it is, and who could open it.
  for (int round = 0; round < (transport == "shared" ? 3 : 1); ++round) {
    const std::string table = CollectTable(ranks);
    for (auto& rank : ranks) rank->Say(table);
  }
  for (auto& rank : ranks) EXPECT_EQ(rank->HearDone().code, "OK");
  return ranks;
}

class RankProcessTest : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, RankProcessTest, ::testing::Values("gloo", "shared"),
                         [](const auto& info) { return info.param; });

TEST_P(RankProcessTest, PeerKilled_WhileOthersAreBlocked_IsNamed) {
  Ranks ranks = ConnectedRanks(GetParam());
  for (const size_t rank : {size_t{0}, size_t{1}}) ranks[rank]->Say("BARRIER");
  for (const size_t rank : {size_t{0}, size_t{1}}) ASSERT_TRUE(ranks[rank]->WaitUntilBlocked());
  ranks[2]->Kill();
  for (const size_t rank : {size_t{0}, size_t{1}}) {
    const Done done = ranks[rank]->HearDone();
    EXPECT_EQ(done.code, "UNAVAILABLE") << done.message;
    EXPECT_EQ(done.peer, 2) << done.message;
    EXPECT_THAT(done.message, HasSubstr("barrier of the test"));
    ranks[rank]->Say("BARRIER");  // and so does every later call, at once
    EXPECT_EQ(ranks[rank]->HearDone().message, done.message);
  }
  for (const size_t rank : {size_t{0}, size_t{1}})
    EXPECT_LT(ranks[rank]->Leave(), kFarBelowTheDeadline);
}

TEST_P(RankProcessTest, PeerKilled_InTheMiddleOfAMessage_IsNamed) {
  Ranks ranks = ConnectedRanks(GetParam());
  ranks[0]->Say("RECV 2 100000000");
  ASSERT_TRUE(ranks[0]->WaitUntilBlocked());
  ranks[0]->Stop();  // so that the message cannot get further than the sockets' buffers
  ranks[2]->Say("SEND 0 100000000");
  ASSERT_TRUE(ranks[2]->WaitUntilBlocked());
  ranks[2]->Kill();
  ranks[0]->Continue();
  const Done done = ranks[0]->HearDone();
  EXPECT_EQ(done.code, "UNAVAILABLE") << done.message;
  EXPECT_EQ(done.peer, 2) << done.message;
}

TEST_P(RankProcessTest, SenderToAKilledPeer_IsNotKilledBySigpipe) {
  Ranks ranks = ConnectedRanks(GetParam());
  ranks[2]->Say("RECV 0 100000000");
  ASSERT_TRUE(ranks[2]->WaitUntilBlocked());
  ranks[2]->Stop();
  ranks[0]->Say("SEND 2 100000000");
  ASSERT_TRUE(ranks[0]->WaitUntilBlocked());
  ranks[2]->Kill();
  const Done done = ranks[0]->HearDone();
  EXPECT_EQ(done.code, "UNAVAILABLE") << done.message;
  EXPECT_EQ(done.peer, 2) << done.message;
  ranks[0]->Leave();
}

TEST_P(RankProcessTest, PeerStopped_WhileOthersAreBlocked_AbortWakesThem) {
  Ranks ranks = ConnectedRanks(GetParam());
  for (const size_t rank : {size_t{0}, size_t{1}}) ranks[rank]->Say("BARRIER");
  for (const size_t rank : {size_t{0}, size_t{1}}) ASSERT_TRUE(ranks[rank]->WaitUntilBlocked());
  ranks[2]->Stop();
  for (const size_t rank : {size_t{0}, size_t{1}}) ranks[rank]->Say("ABORT");
  for (const size_t rank : {size_t{0}, size_t{1}}) {
    const Done done = ranks[rank]->HearDone();
    EXPECT_EQ(done.code, "ABORTED") << done.message;
    // Milliseconds, on a machine that does nothing else.
    EXPECT_LT(done.ms, kFarBelowTheDeadline);
    std::cout << "rank " << rank << " woke after " << done.ms << " ms" << std::endl;
  }
  for (const size_t rank : {size_t{0}, size_t{1}})
    EXPECT_LT(ranks[rank]->Leave(), kFarBelowTheDeadline);
  ranks[2]->Kill();
}

TEST(GlooProcessTest, PeerWithAnotherToken_IsRefusedOnBothSides) {
  Ranks ranks = StartRanks({"127.0.0.1", "127.0.0.1"}, {"key", "another key"});
  const std::string table = CollectTable(ranks);
  for (auto& rank : ranks) rank->Say(table);
  for (const int rank : {0, 1}) {
    const Done done = ranks[static_cast<size_t>(rank)]->HearDone();
    EXPECT_EQ(done.code, "PERMISSION_DENIED") << done.message;
    EXPECT_EQ(done.peer, 1 - rank) << done.message;
    EXPECT_THAT(done.message, HasSubstr("refused"));
  }
}

// The higher address connects to the lower one, so rank 0 has to wait for the dead one.
TEST(GlooProcessTest, PeerDead_BeforeItConnects_CancelEndsTheWaiting) {
  Ranks ranks = StartRanks({"127.0.0.1", "127.0.0.2"}, {"key", "key"});
  const std::string table = CollectTable(ranks);
  ranks[1]->Kill();
  ranks[0]->Say(table);
  ranks[0]->Say("CANCEL");
  const Done done = ranks[0]->HearDone();
  EXPECT_EQ(done.code, "ABORTED") << done.message;
  EXPECT_EQ(done.peer, 1) << done.message;
  EXPECT_THAT(done.message, HasSubstr("cancelled while connecting"));
  EXPECT_LT(ranks[0]->Leave(), kFarBelowTheDeadline);
}

TEST(GlooProcessTest, PeerDead_BeforeItConnects_TheDeadlineEndsTheWaitingAndNamesIt) {
  Ranks ranks = StartRanks({"127.0.0.1", "127.0.0.2"}, {"key", "key"}, /*timeout_ms=*/200);
  const std::string table = CollectTable(ranks);
  ranks[1]->Kill();
  ranks[0]->Say(table);
  const Done done = ranks[0]->HearDone();
  EXPECT_EQ(done.code, "DEADLINE_EXCEEDED") << done.message;
  EXPECT_EQ(done.peer, 1) << done.message;
}

TEST(GlooProcessTest, PeerDead_BeforeOthersConnectToIt_IsNamedAtOnce) {
  Ranks ranks = StartRanks({"127.0.0.2", "127.0.0.1"}, {"key", "key"});
  const std::string table = CollectTable(ranks);
  ranks[1]->Kill();
  ranks[0]->Say(table);
  const Done done = ranks[0]->HearDone();
  EXPECT_EQ(done.code, "UNAVAILABLE") << done.message;
  EXPECT_EQ(done.peer, 1) << done.message;
}

}  // namespace
}  // namespace dsrun::worker
