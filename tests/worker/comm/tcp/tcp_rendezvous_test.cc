// Ranks as threads that meet over loopback: who comes in which order, who is sent away, who does
// not come. Ports are the kernel's choice.

#include "worker/comm/tcp/tcp_rendezvous.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/clock.h"
#include "common/rpc/sockets.h"
#include "worker/comm/core/communicator.h"
#include "worker/comm/tcp/frame_socket.h"

namespace dsrun::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Nobody's in the moments until the test listens there: of the kernel's own range, from which it
// gives the same one again only after it has gone around.
std::string FreeAddress() {
  const absl::StatusOr<ListeningSocket> socket = ListenOn("127.0.0.1:0");
  EXPECT_TRUE(socket.ok()) << socket.status();
  return socket.ok() ? socket->address : "127.0.0.1:1";
}

MeetingPlace Place(const std::string& address, int rank, int size) {
  return {.rank = rank,
          .size = size,
          .address = address,
          .job = "job",
          .generation = 1,
          .timeout = absl::Seconds(30)};
}

using Met = absl::StatusOr<std::unique_ptr<TcpRendezvous>>;

// Meets with all of `places` at once, each in a thread, and does `then` with what has met.
std::vector<absl::Status> MeetAll(const std::vector<MeetingPlace>& places,
                                  const std::function<void(int rank, TcpRendezvous&)>& then) {
  std::vector<absl::Status> statuses(places.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < places.size(); ++i) {
    threads.emplace_back([&, i] {
      Met met = TcpRendezvous::Meet(places[i]);
      statuses[i] = met.status();
      if (met.ok()) then(places[i].rank, **met);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return statuses;
}

TEST(TcpRendezvous, ThreeRanks_HaveAllBlobsByRankAndOneToken) {
  const std::string address = FreeAddress();
  std::vector<std::vector<std::string>> tables(3), second(3);
  std::vector<std::string> tokens(3);
  const std::string large(3 << 20, 'x');  // more than a socket takes at once
  const auto statuses =
      MeetAll({Place(address, 2, 3), Place(address, 1, 3), Place(address, 0, 3)},
              [&](int rank, TcpRendezvous& meeting) {
                const auto at = static_cast<size_t>(rank);
                tokens[at] = meeting.token();
                const auto first = meeting.Exchange("first", "of " + std::to_string(rank));
                ASSERT_TRUE(first.ok()) << first.status();
                tables[at] = *first;
                const auto other = meeting.Exchange("second", rank == 1 ? large : std::string());
                ASSERT_TRUE(other.ok()) << other.status();
                second[at] = *other;
              });
  for (size_t rank = 0; rank < 3; ++rank) {
    EXPECT_TRUE(statuses[rank].ok()) << statuses[rank];
    EXPECT_THAT(tables[rank], ElementsAre("of 0", "of 1", "of 2"));
    EXPECT_THAT(second[rank], ElementsAre("", large, ""));
    EXPECT_EQ(tokens[rank], tokens[0]);
  }
  EXPECT_EQ(tokens[0].size(), 32u);
}

TEST(TcpRendezvous, OneRank_NeedsNoAddress) {
  Met met = TcpRendezvous::Meet(Place("", 0, 1));
  ASSERT_TRUE(met.ok()) << met.status();
  EXPECT_THAT(*(*met)->Exchange("anything", "mine"), ElementsAre("mine"));
}

TEST(TcpRendezvous, OffLoopback_IsRefusedBeforeAnythingIsSent) {
  for (const int rank : {0, 1}) {
    const absl::Status status = TcpRendezvous::Meet(Place("192.0.2.1:4711", rank, 2)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(status.message(),
              "rank " + std::to_string(rank) +
                  " of 2: 192.0.2.1:4711 (MASTER_ADDR, MASTER_PORT) is off loopback: refused until "
                  "TLS exists; run all ranks on one machine, with an address such as 127.0.0.1");
  }
}

TEST(TcpRendezvous, WithoutAnAddress_SaysWhatIsMissing) {
  const absl::Status status = TcpRendezvous::Meet(Place("", 1, 2)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("MASTER_ADDR and MASTER_PORT are not set"));
}

TEST(TcpRendezvous, RankOfAnotherSizeOrJob_IsSentAwayWithBothSides) {
  const std::string address = FreeAddress();
  std::thread host([&] {
    Met met = TcpRendezvous::Meet(Place(address, 0, 2));
    EXPECT_TRUE(met.ok()) << met.status();
  });
  const absl::Status larger = TcpRendezvous::Meet(Place(address, 1, 3)).status();
  EXPECT_EQ(larger.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(larger.message()),
              HasSubstr("rank 1 of 3, at " + address +
                        " (MASTER_ADDR, MASTER_PORT): rank 0 sends it away: here meet 2 ranks "
                        "(WORLD_SIZE of rank 0); got rank 1 of 3"));
  MeetingPlace place = Place(address, 1, 2);
  place.job = "other";
  const absl::Status other = TcpRendezvous::Meet(place).status();
  EXPECT_EQ(other.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(other.message()),
              HasSubstr("here meets job job, start 1; rank 1 of 2 is of job other, start 1"));
  EXPECT_TRUE(TcpRendezvous::Meet(Place(address, 1, 2)).ok());
  host.join();
}

TEST(TcpRendezvous, SecondRankOfOneNumber_IsSentAway) {
  const std::string address = FreeAddress();
  std::thread host([&] {
    Met met = TcpRendezvous::Meet(Place(address, 0, 3));
    EXPECT_TRUE(met.ok()) << met.status();
  });
  Met first = TcpRendezvous::Meet(Place(address, 1, 3));
  ASSERT_TRUE(first.ok()) << first.status();
  const absl::Status second = TcpRendezvous::Meet(Place(address, 1, 3)).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(second.message()), HasSubstr("rank 1 of 3 is here already"));
  EXPECT_TRUE(TcpRendezvous::Meet(Place(address, 2, 3)).ok());
  host.join();
}

TEST(TcpRendezvous, RankThatDoesNotCome_IsNamedWithTheAddress) {
  const std::string address = FreeAddress();
  MeetingPlace place = Place(address, 0, 3);
  place.timeout = absl::Milliseconds(20);
  const absl::Status host = TcpRendezvous::Meet(place).status();
  EXPECT_EQ(host.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(host.message()),
              HasSubstr("rank 0 of 3 waited for 20ms at " + address +
                        " (MASTER_ADDR, MASTER_PORT), and ranks 1, 2 did not come"));
  EXPECT_EQ(PeerRank(host), 1);

  place.rank = 2;
  const absl::Status guest = TcpRendezvous::Meet(place).status();
  EXPECT_EQ(guest.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(guest.message()),
              HasSubstr("rank 2 of 3 came to " + address +
                        " (MASTER_ADDR, MASTER_PORT) for 20ms and did not find rank 0"));
  EXPECT_EQ(PeerRank(guest), 0);
}

TEST(TcpRendezvous, TakenPort_IsSaidByRankZero) {
  const absl::StatusOr<ListeningSocket> taken = ListenOn("127.0.0.1:0");
  ASSERT_TRUE(taken.ok()) << taken.status();
  const absl::Status status = TcpRendezvous::Meet(Place(taken->address, 0, 2)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr(taken->address));
}

TEST(TcpRendezvous, StrangersAtTheDoor_KeepNobodyOut) {
  const std::string address = FreeAddress();
  std::thread host([&] {
    Met met = TcpRendezvous::Meet(Place(address, 0, 2));
    EXPECT_TRUE(met.ok()) << met.status();
    if (!met.ok()) return;
    EXPECT_TRUE((*met)->Exchange("x", "").ok());
  });
  const SteadyTime deadline = Clock::Real().SteadyNow() + absl::Seconds(30);
  // More silent ones than it has places for, some with garbage and a length beyond all reason.
  std::vector<FrameSocket> strangers;
  while (strangers.size() < 80) {
    absl::StatusOr<Descriptor> fd = ConnectTo(address, deadline);
    if (!fd.ok()) {
      ASSERT_LT(Clock::Real().SteadyNow(), deadline) << fd.status();
      std::this_thread::yield();  // the host is not there yet
      continue;
    }
    strangers.emplace_back(*std::move(fd), 100);
    if (strangers.size() % 3 == 0) {
      strangers.back().Send("hello", deadline).IgnoreError();
    } else if (strangers.size() % 3 == 1) {
      strangers.back().Send(std::string(8000, '\xff'), deadline).IgnoreError();
    }
  }
  Met met = TcpRendezvous::Meet(Place(address, 1, 2));
  ASSERT_TRUE(met.ok()) << met.status();
  EXPECT_TRUE((*met)->Exchange("x", "").ok());
  host.join();
}

// It neither waits out its time with one who knocks nor spins there.
TEST(TcpRendezvous, RankZeroWithoutDescriptors_SaysSo) {
  const std::string address = FreeAddress();
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  absl::Status met;
  std::thread host([&] { met = TcpRendezvous::Meet(Place(address, 0, 2)).status(); });
  const SteadyTime deadline = Clock::Real().SteadyNow() + absl::Seconds(30);
  std::unique_ptr<Descriptor> first;
  while (first == nullptr) {
    absl::StatusOr<Descriptor> fd = ConnectTo(address, deadline);
    ASSERT_LT(Clock::Real().SteadyNow(), deadline) << fd.status();
    if (fd.ok()) first = std::make_unique<Descriptor>(*std::move(fd));
    std::this_thread::yield();  // the host is not there yet
  }
  const Descriptor second(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  rlimit none = before;
  none.rlim_cur = 3;  // all are taken; poll() still takes as many
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  sockaddr_in door{};
  socklen_t size = sizeof(door);
  getpeername(first->get(), reinterpret_cast<sockaddr*>(&door), &size);
  // Refused if the first one was still before the door, and the host has left over it.
  connect(second.get(), reinterpret_cast<const sockaddr*>(&door), size);
  host.join();
  setrlimit(RLIMIT_NOFILE, &before);
  EXPECT_EQ(met.code(), absl::StatusCode::kResourceExhausted) << met;
  EXPECT_THAT(std::string(met.message()), HasSubstr("rank 0 cannot let anybody in at 127.0.0.1:"));
  EXPECT_THAT(std::string(met.message()), HasSubstr("RLIMIT_NOFILE"));
}

TEST(TcpRendezvous, RanksThatMeetForDifferentThings_AreNamed) {
  const std::string address = FreeAddress();
  std::vector<absl::Status> met(2);
  MeetAll({Place(address, 0, 2), Place(address, 1, 2)}, [&](int rank, TcpRendezvous& meeting) {
    met[static_cast<size_t>(rank)] = meeting.Exchange(rank == 0 ? "this" : "that", "").status();
  });
  EXPECT_EQ(met[0].code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(met[0].message()), HasSubstr("rank 0 for 'this', rank 1 for 'that'"));
  EXPECT_EQ(PeerRank(met[0]), 1);
  // Rank 0 has left.
  EXPECT_EQ(met[1].code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(PeerRank(met[1]), 0);
}

}  // namespace
}  // namespace dsrun::worker
