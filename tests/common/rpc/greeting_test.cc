// The greeting: known bytes, and that nothing in it can be changed, played again, sent back or
// carried elsewhere.

#include "common/rpc/greeting.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "common/rpc/line_budget.h"

namespace dsrun {
namespace {

using ::testing::HasSubstr;

constexpr char kKey[] = "0123456789abcdef";
constexpr char kAddress[] = "127.0.0.1:4711";

// 32 bytes: from, from + 1, ...
std::string Nonce(int from) {
  std::string nonce;
  for (int i = 0; i < 32; ++i) nonce.push_back(static_cast<char>(from + i));
  return nonce;
}

struct Sides {
  std::string coordinators_key = kKey;
  std::string agents_key = kKey;
  std::string called = kAddress;
  std::string bound = kAddress;
};
struct Outcome {
  bool agent_believes = false;
  absl::Status coordinator;
  std::string coordinators_ticket;
  std::string agents_ticket;
  std::vector<std::string> said;  // call, answer, claim, verdict
};

// `change`: what becomes of message `which` on its way.
Outcome Greet(const Sides& sides,
              const std::function<void(size_t which, std::string& message)>& change = nullptr) {
  Outcome outcome;
  CoordinatorGreeting coordinator(sides.coordinators_key, sides.called, Nonce(0));
  AgentGreeting agent(sides.agents_key, sides.bound, Nonce(100));
  const auto pass = [&](std::string message) {
    outcome.said.push_back(message);
    if (change) change(outcome.said.size() - 1, message);
    return message;
  };
  const AgentGreeting::Reply answer = agent.Take(pass(coordinator.call()));
  if (answer.say.empty()) {
    outcome.coordinator = absl::UnavailableError("hung up");
    return outcome;
  }
  const absl::StatusOr<std::string> claim = coordinator.TakeAnswer(pass(answer.say));
  outcome.coordinator = claim.status();
  if (!claim.ok() || agent.wanted() == 0) return outcome;
  agent.Take(pass(*claim));
  outcome.agent_believes = agent.proven();
  if (!agent.proven()) {
    outcome.coordinator = absl::UnavailableError("hung up");
    return outcome;
  }
  outcome.coordinator = coordinator.TakeVerdict(pass(agent.Verdict(DoorVerdict::kWelcome)));
  outcome.coordinators_ticket = coordinator.ticket();
  outcome.agents_ticket = agent.ticket();
  return outcome;
}

TEST(Greeting, KnownBytes) {
  const Outcome outcome = Greet({});
  EXPECT_TRUE(outcome.agent_believes);
  EXPECT_TRUE(outcome.coordinator.ok()) << outcome.coordinator;
  const auto hex = [](const std::string& bytes) { return absl::BytesToHexString(bytes); };
  const std::string head = "89647372756e0d0a0001000000000000";
  ASSERT_EQ(outcome.said.size(), 4u);
  // Made with another implementation of HMAC-SHA256.
  EXPECT_EQ(hex(outcome.said[0]), head + hex(Nonce(0)));
  EXPECT_EQ(
      hex(outcome.said[1]),
      head + hex(Nonce(100)) + "16346f9792f07ee8f33f436a6e6aca05f1b7b56a56b234359028781a434bb3d4");
  EXPECT_EQ(hex(outcome.said[2]),
            "8fdec42640fa3d92cbfdac2c40fb7d8e20dc9359d562c63d110b824442ba030d");
  EXPECT_EQ(hex(outcome.said[3]),
            "00000000000000005123bbdc2459207d2108235d8b265c3b969cc4aa2fb2f0e989753cd9b9fa2a54");
  EXPECT_EQ(hex(outcome.agents_ticket), "5ca86f9cc300346f6903efa32fa9ffa6");
  EXPECT_EQ(outcome.coordinators_ticket, outcome.agents_ticket);
}

TEST(Greeting, AnyBitChangedOnTheWay_IsNoticed) {
  const Outcome honest = Greet({});
  for (size_t message = 0; message < honest.said.size(); ++message) {
    for (size_t byte = 0; byte < honest.said[message].size(); ++byte) {
      for (int bit = 0; bit < 8; ++bit) {
        const Outcome outcome = Greet({}, [&](size_t which, std::string& bytes) {
          if (which == message) bytes[byte] = static_cast<char>(bytes[byte] ^ (1 << bit));
        });
        // Of the last message the agent hears nothing any more.
        EXPECT_EQ(outcome.agent_believes, message == 3) << message << ": " << byte;
        EXPECT_FALSE(outcome.coordinator.ok()) << message << ": " << byte;
      }
    }
  }
}

TEST(Greeting, OtherKey_IsSeenByTheCoordinatorWhichThenSaysNothing) {
  for (const Sides& sides :
       {Sides{.coordinators_key = "another key of 16"}, Sides{.agents_key = "0123456789abcdeg"},
        Sides{.agents_key = std::string(kKey) + "x"}}) {
    const Outcome outcome = Greet(sides);
    EXPECT_FALSE(outcome.agent_believes);
    EXPECT_EQ(outcome.coordinator.code(), absl::StatusCode::kUnauthenticated);
    EXPECT_THAT(std::string(outcome.coordinator.message()), HasSubstr("give both the same one"));
    EXPECT_EQ(outcome.said.size(),
              2u);  // call and answer: random numbers and the agent's own proof
  }
}

// Whoever listens at another address and passes all bytes to a real agent and back gets nowhere.
TEST(Greeting, CarriedToAnotherAddress_IsNotBelieved) {
  for (const char* called : {"127.0.0.2:4711", "127.0.0.1:4712", "[::1]:4711", "unix:/a", ""}) {
    const Outcome outcome = Greet({.called = called});
    EXPECT_FALSE(outcome.agent_believes) << called;
    EXPECT_EQ(outcome.coordinator.code(), absl::StatusCode::kUnauthenticated) << called;
  }
}

TEST(Greeting, AnswerOfAnEarlierGreeting_IsNotBelieved) {
  const Outcome earlier = Greet({});
  CoordinatorGreeting later(kKey, kAddress, Nonce(7));
  EXPECT_EQ(later.TakeAnswer(earlier.said[1]).status().code(), absl::StatusCode::kUnauthenticated);
}

TEST(Greeting, ClaimOfAnEarlierGreeting_IsNotBelieved) {
  const Outcome earlier = Greet({});
  AgentGreeting later(kKey, kAddress, Nonce(7));
  EXPECT_TRUE(later.Take(earlier.said[0]).refused.ok());
  EXPECT_EQ(later.Take(earlier.said[2]).refused.code(), absl::StatusCode::kUnauthenticated);
  EXPECT_FALSE(later.proven());
}

TEST(Greeting, AgentsProofSentBackToIt_IsNoClaim) {
  AgentGreeting agent(kKey, kAddress, Nonce(0));
  const std::string answer = agent.Take(Greet({}).said[0]).say;
  EXPECT_FALSE(agent.Take(answer.substr(kAnswerBytes - kClaimBytes)).refused.ok());
  EXPECT_FALSE(agent.proven());
}

TEST(Greeting, OtherVersion_IsSaidToBoth) {
  const auto newer = [](size_t, std::string& bytes) { bytes[9] = 2; };
  const Outcome outcome = Greet({}, [&](size_t which, std::string& bytes) {
    if (which == 0) newer(which, bytes);
  });
  EXPECT_EQ(outcome.coordinator.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(outcome.coordinator.message()), HasSubstr("come from one build"));
  AgentGreeting agent(kKey, kAddress, Nonce(0));
  std::string call = CoordinatorGreeting(kKey, kAddress, Nonce(1)).call();
  newer(0, call);
  EXPECT_THAT(std::string(agent.Take(call).refused.message()),
              HasSubstr("expected version 1 of the greeting, got 2"));
}

TEST(Greeting, Refusals_ComeWithTheirCodes) {
  CoordinatorGreeting coordinator(kKey, kAddress, Nonce(0));
  EXPECT_EQ(coordinator.TakeAnswer(RefusingAnswer(DoorVerdict::kNotAdmitted)).status().code(),
            absl::StatusCode::kPermissionDenied);
  AgentGreeting agent(kKey, kAddress, Nonce(100));
  const std::string answer = agent.Take(coordinator.call()).say;
  const absl::StatusOr<std::string> claim = coordinator.TakeAnswer(answer);
  ASSERT_TRUE(claim.ok()) << claim.status();
  EXPECT_TRUE(agent.Take(*claim).refused.ok());
  EXPECT_EQ(coordinator.TakeVerdict(agent.Verdict(DoorVerdict::kFull)).code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(Greeting, WhatIsNone_IsCalledByItsName) {
  struct Row {
    std::string bytes;
    const char* words;
  };
  const std::vector<Row> table = {
      {"", "says nothing"},
      {"GET / HTTP/1.1\r\n\r\n", "speaks HTTP"},
      {"PRI * HTTP/2.0\r\n\r\n", "speaks HTTP/2, as our programs of earlier versions do"},
      {std::string("\0\0\x12\x04\0\0\0\0\0", 9), "speaks HTTP/2"},
      {"\x16\x03\x01\x02", "speaks TLS"},
      {"SSH-2.0-x", "speaks SSH"},
      {"hello", "says something that is no greeting of ours, in 5 bytes"},
  };
  for (const Row& row : table) {
    EXPECT_EQ(BeginsAsGreeting(row.bytes), row.bytes.empty()) << row.words;
    EXPECT_THAT(StrangerWords(row.bytes), HasSubstr(row.words));
    std::string answer = row.bytes;
    answer.resize(kAnswerBytes, '\0');
    const absl::Status status =
        CoordinatorGreeting(kKey, kAddress, Nonce(0)).TakeAnswer(answer).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(status.message()), HasSubstr("another program is listening there"));
  }
}

TEST(Welcome, CarriesATicketOrARefusal) {
  const std::string ticket = Nonce(3).substr(0, kTicketBytes);
  const std::string welcome = Welcome(DoorVerdict::kWelcome, ticket);
  EXPECT_EQ(welcome.size(), kWelcomeBytes);
  EXPECT_EQ(TakeWelcome(welcome).value_or(""), ticket);
  EXPECT_EQ(TakeWelcome(Welcome(DoorVerdict::kNotAdmitted, "")).status().code(),
            absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(TakeWelcome(Welcome(DoorVerdict::kFull, "")).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(TakeWelcome(std::string(kWelcomeBytes, 'x')).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST(LineBudget, AFewLinesAPeriod_AndHowManyMoreThereWere) {
  LineBudget budget(2, absl::Seconds(10));
  int64_t left_out = -1;
  EXPECT_TRUE(budget.Take(absl::Seconds(100), left_out));
  EXPECT_TRUE(budget.Take(absl::Seconds(101), left_out));
  EXPECT_EQ(left_out, 0);
  EXPECT_FALSE(budget.Take(absl::Seconds(102), left_out));
  EXPECT_FALSE(budget.Take(absl::Seconds(109), left_out));
  EXPECT_TRUE(budget.Take(absl::Seconds(110), left_out));
  EXPECT_EQ(left_out, 2);
  EXPECT_TRUE(budget.Take(absl::Seconds(111), left_out));
  EXPECT_EQ(left_out, 0);
}

}  // namespace
}  // namespace dsrun
