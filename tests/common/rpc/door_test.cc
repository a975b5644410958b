// Doors and who knocks at them, over real sockets: strangers, floods, relays, replays, the kernel's
// word, and a process without descriptors.

#include "common/rpc/door.h"

#include <dirent.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/rpc/channel.h"
#include "common/rpc/introduction.h"
#include "common/rpc/secrets.h"
#include "common/rpc/server_stream.h"
#include "proto/agent_service.grpc.pb.h"
#include "tests/support/behind_a_door.h"
#include "tests/support/thread_state.h"

namespace dsrun {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kPatience = absl::Seconds(20);

SteadyTime Deadline() { return Clock::Real().SteadyNow() + kPatience; }

Descriptor Connected(const std::string& target) {
  absl::StatusOr<Descriptor> fd = ConnectTo(target, Deadline());
  EXPECT_TRUE(fd.ok()) << fd.status();
  return *std::move(fd);
}

void Say(const Descriptor& fd, const std::string& bytes) {
  (void)!send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
}

// Everything the other side says until it hangs up, or `most` bytes.
struct Heard {
  std::string bytes;
  bool hung_up = false;
};
Heard Hear(const Descriptor& fd, size_t most = 1 << 20) {
  Heard heard;
  pollfd ready{.fd = fd.get(), .events = POLLIN, .revents = 0};
  while (heard.bytes.size() < most && poll(&ready, 1, 20'000) > 0) {
    char buffer[4096];
    const ssize_t count =
        recv(fd.get(), buffer, std::min(sizeof(buffer), most - heard.bytes.size()), 0);
    if (count <= 0) {
      heard.hung_up = true;
      break;
    }
    heard.bytes.append(buffer, count);
  }
  return heard;
}

bool Eventually(const std::function<bool()>& condition) {
  const SteadyTime deadline = Deadline();
  while (!condition()) {
    if (Clock::Real().SteadyNow() > deadline) return false;
    poll(nullptr, 0, 1);
  }
  return true;
}

// Answers the first message of a stream with who it is from.
class WhoService : public proto::Agent::CallbackService {
 public:
  using Stream = ServerStream<proto::CoordinatorMessage, proto::AgentMessage>;
  GuestList* guests = nullptr;

  grpc::ServerBidiReactor<proto::CoordinatorMessage, proto::AgentMessage>* Session(
      grpc::CallbackServerContext* context) override {
    const std::shared_ptr<Guest> guest = Introduced(*guests, *context);
    Stream::Handler handler;
    handler.on_message = [guest](const Stream::Ptr& stream, const proto::CoordinatorMessage&) {
      if (guest == nullptr) return stream->Close(absl::UnauthenticatedError("no ticket"));
      guest->settled = true;
      proto::AgentMessage answer;
      answer.mutable_opened()->set_pid(guest->caller.pid);
      answer.mutable_opened()->set_version(guest->caller.address);
      stream->Send(answer);
    };
    handler.on_gone = [](const Stream::Ptr&) {};
    return Stream::Accept(std::move(handler));
  }
};

// A call over a dialled connection.
class OneCall {
 public:
  explicit OneCall(std::shared_ptr<grpc::Channel> channel, const std::string& ticket)
      : stub_(proto::Agent::NewStub(std::move(channel))) {
    if (!ticket.empty()) Introduce(context_, ticket);
    SetDeadline(context_, kPatience);
    stream_ = stub_->Session(&context_);
  }
  ~OneCall() { context_.TryCancel(); }
  // Whom the service takes it for; or its refusal.
  absl::StatusOr<proto::Opened> Ask() {
    stream_->Write(proto::CoordinatorMessage());
    proto::AgentMessage answer;
    if (stream_->Read(&answer)) return answer.opened();
    return absl::Status(static_cast<absl::StatusCode>(stream_->Finish().error_code()), "refused");
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<proto::Agent::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<proto::CoordinatorMessage, proto::AgentMessage>> stream_;
};

class DoorTest : public ::testing::Test {
 protected:
  void Open(Door::Options options = BehindADoor::Options()) {
    served_ =
        std::make_unique<BehindADoor>(std::vector<grpc::Service*>{&service_}, std::move(options));
    service_.guests = &served_->guests;
  }
  // A path that is free.
  std::string Socket() {
    std::string folder = "/tmp/door-XXXXXX";
    EXPECT_NE(mkdtemp(folder.data()), nullptr);
    folders_.push_back(folder);
    return "unix:" + folder + "/s";
  }
  ~DoorTest() override {
    served_.reset();
    for (const std::string& folder : folders_) EXPECT_EQ(rmdir(folder.c_str()), 0) << folder;
  }
  absl::Status Dial(const std::string& key = BehindADoor::kKey) {
    return DialAgent(served_->target(), key, kPatience).status();
  }
  void ExpectServed() {
    Connection connection = served_->Dial();
    const std::string ticket = connection.ticket;
    OneCall caller(MakeChannel(std::move(connection), Keepalive::kOn), ticket);
    const absl::StatusOr<proto::Opened> answer = caller.Ask();
    EXPECT_TRUE(answer.ok()) << answer.status();
  }

  WhoService service_;
  std::unique_ptr<BehindADoor> served_;
  std::vector<std::string> folders_;
};

TEST_F(DoorTest, WhoHasTheKey_IsServed_AndATicketIsGoodForOneCall) {
  Open();
  Connection connection = served_->Dial();
  const std::string ticket = connection.ticket;
  const std::shared_ptr<grpc::Channel> channel = MakeChannel(std::move(connection), Keepalive::kOn);
  OneCall first(channel, ticket);
  EXPECT_THAT(first.Ask()->version(), HasSubstr("127.0.0.1:"));
  EXPECT_EQ(OneCall(channel, ticket).Ask().status().code(), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(OneCall(channel, "").Ask().status().code(), absl::StatusCode::kUnauthenticated);
}

TEST_F(DoorTest, ConnectionThatEnds_LeavesItsPlace) {
  Door::Options options = BehindADoor::Options();
  options.most_proven = 2;
  Open(options);
  std::list<Connection> two;
  two.push_back(served_->Dial());
  two.push_back(served_->Dial());
  EXPECT_EQ(Dial().code(), absl::StatusCode::kResourceExhausted);
  two.pop_front();
  EXPECT_TRUE(Eventually([&] { return served_->door().proven() == 1; }));
  EXPECT_TRUE(Dial().ok());
}

// A judge may take his time; whoever closes the door waits for one judgement at most.
TEST_F(DoorTest, DoorThatCloses_JudgesNobodyAnyMore) {
  std::atomic<int> judged = 0;
  std::atomic<bool> goes_on = false;
  Door::Options options = BehindADoor::Options();
  options.listen = Socket();
  options.cluster_key = "";
  options.judge = [&](const Caller&) {
    ++judged;
    EXPECT_TRUE(Eventually([&] { return goes_on.load(); }));
    return absl::PermissionDeniedError("is a stranger");
  };
  Open(options);
  std::list<Descriptor> callers;
  for (int i = 0; i < 5; ++i) callers.push_back(Connected(served_->target()));
  ASSERT_TRUE(Eventually([&] { return judged == 1; }));
  std::atomic<int> tid = 0;
  std::thread closer([&] {
    tid = gettid();
    served_.reset();
  });
  EXPECT_TRUE(Eventually([&] { return tid != 0 && IsAsleep(tid); }));
  goes_on = true;
  closer.join();
  EXPECT_EQ(judged, 1);
}

TEST_F(DoorTest, OtherKey_IsUnauthenticated) {
  Open();
  EXPECT_EQ(Dial("another key of some length").code(), absl::StatusCode::kUnauthenticated);
  EXPECT_TRUE(Dial().ok());
}

TEST_F(DoorTest, Strangers_HearNothingAndAreDroppedAtOnce) {
  Open();
  for (const std::string& bytes :
       {std::string("GET / HTTP/1.1\r\n"), std::string("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        std::string("\x16\x03\x01", 3), std::string("x"), std::string(60'000, 'y')}) {
    const Descriptor fd = Connected(served_->target());
    Say(fd, bytes);
    const Heard heard = Hear(fd);
    EXPECT_TRUE(heard.hung_up);
    EXPECT_EQ(heard.bytes, "");
  }
  ExpectServed();
}

TEST_F(DoorTest, SlowAndSilentCallers_AreDroppedInTime) {
  Door::Options options = BehindADoor::Options();
  options.prove_within = absl::Milliseconds(60);
  Open(options);
  const std::string call =
      CoordinatorGreeting(BehindADoor::kKey, served_->target(), RandomBytes(kNonceBytes)).call();
  const Descriptor silent = Connected(served_->target());
  const Descriptor begins = Connected(served_->target());
  const Descriptor stops = Connected(served_->target());
  Say(begins, call.substr(0, 9));
  Say(stops, call);
  EXPECT_EQ(Hear(stops, kAnswerBytes).bytes.size(), kAnswerBytes);
  const Descriptor drips = Connected(served_->target());
  size_t sent = 0;
  pollfd ended{.fd = drips.get(), .events = POLLIN, .revents = 0};
  while (sent < call.size() - 1 && poll(&ended, 1, 5) == 0) Say(drips, call.substr(sent++, 1));
  for (const Descriptor* fd : {&silent, &begins, &stops, &drips}) {
    const Heard heard = Hear(*fd);
    EXPECT_TRUE(heard.hung_up);
    EXPECT_EQ(heard.bytes, "");
  }
  EXPECT_LT(sent, call.size() - 1) << "it was waited for as long as it dripped";
}

// As many as can be had for nothing: the newest are heard, whoever has the key comes in.
TEST_F(DoorTest, FloodOfIdleConnections_KeepsNobodyOut) {
  Door::Options options = BehindADoor::Options();
  options.most_unproven = 8;
  Open(options);
  std::list<Descriptor> idle;
  for (int i = 0; i < 200; ++i) {
    idle.push_back(Connected(served_->target()));
    if (i % 50 == 0) ExpectServed();
  }
  ExpectServed();
  int open = 0;
  EXPECT_TRUE(Eventually([&] {
    open = 0;
    for (const Descriptor& fd : idle) {
      pollfd ended{.fd = fd.get(), .events = POLLIN, .revents = 0};
      open += poll(&ended, 1, 0) == 0;
    }
    return open <= 8;
  })) << open;
}

// A caller with the key that takes its time between its two words.
class SlowCaller {
 public:
  explicit SlowCaller(const std::string& target)
      : fd_(Connected(target)), greeting_(BehindADoor::kKey, target, RandomBytes(kNonceBytes)) {}

  const Descriptor& fd() const { return fd_; }
  // Calls, and hears who is there.
  bool Call() {
    Say(fd_, greeting_.call());
    const std::string answer = Hear(fd_, kAnswerBytes).bytes;
    if (answer.size() == kAnswerBytes) claim_ = greeting_.TakeAnswer(answer);
    return claim_.ok();
  }
  bool ComesIn() {
    Say(fd_, claim_.value_or(""));
    const std::string verdict = Hear(fd_, kVerdictBytes).bytes;
    return verdict.size() == kVerdictBytes && greeting_.TakeVerdict(verdict).ok();
  }

 private:
  const Descriptor fd_;
  CoordinatorGreeting greeting_;
  absl::StatusOr<std::string> claim_ = absl::UnknownError("not called yet");
};

// Those who call and stop there have proven nothing: they push out one another, never who has come
// a moment ago and is about to call.
TEST_F(DoorTest, HouseFullOfCallersThatStopThere_KeepsNobodyOut) {
  Door::Options options = BehindADoor::Options();
  options.most_unproven = 8;
  options.moment = options.prove_within = absl::Hours(1);  // nothing here is a matter of time
  Open(options);
  std::list<SlowCaller> stop_there;
  for (int i = 0; i < 8; ++i) EXPECT_TRUE(stop_there.emplace_back(served_->target()).Call());
  SlowCaller honest(served_->target());
  std::list<Descriptor> others;
  for (int i = 0; i < 2; ++i) others.push_back(Connected(served_->target()));
  // They are there: each in the place of one that called, the first one first.
  auto gone = stop_there.begin();
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Hear((gone++)->fd()).hung_up);
  // More of those who call and stop there, twice the house.
  for (int i = 0; i < 16; ++i) EXPECT_TRUE(stop_there.emplace_back(served_->target()).Call());
  EXPECT_TRUE(honest.Call());
  EXPECT_TRUE(honest.ComesIn());
}

TEST_F(DoorTest, FloodOfSilentCallers_PushesOutSilentOnesAlone) {
  Door::Options options = BehindADoor::Options();
  options.most_unproven = 8;
  options.moment = options.prove_within = absl::Hours(1);
  Open(options);
  SlowCaller honest(served_->target());
  EXPECT_TRUE(honest.Call());
  std::list<Descriptor> silent;
  for (int i = 0; i < 200; ++i) silent.push_back(Connected(served_->target()));
  auto last_to_go = std::prev(silent.end(), 8);
  EXPECT_TRUE(Hear(*last_to_go).hung_up);
  EXPECT_TRUE(honest.ComesIn());
}

TEST_F(DoorTest, WhoSaysNothingForLongerThanItsMoment_MakesRoomForAllOthers) {
  Door::Options options = BehindADoor::Options();
  options.most_unproven = 4;
  options.moment = absl::ZeroDuration();
  options.prove_within = absl::Hours(1);
  Open(options);
  const Descriptor idle = Connected(served_->target());
  std::list<SlowCaller> called;
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(called.emplace_back(served_->target()).Call());
  SlowCaller honest(served_->target());
  EXPECT_TRUE(honest.Call());
  EXPECT_TRUE(Hear(idle).hung_up);
  EXPECT_TRUE(honest.ComesIn());
  for (SlowCaller& each : called) EXPECT_TRUE(each.ComesIn());
}

TEST_F(DoorTest, ProvenAndSilent_IsCut_AndWhoSpokeIsNot) {
  Door::Options options = BehindADoor::Options();
  options.settle_within = absl::Milliseconds(50);
  Open(options);
  Connection speaks = served_->Dial();
  const std::string ticket = speaks.ticket;
  OneCall caller(MakeChannel(std::move(speaks), Keepalive::kOn), ticket);
  EXPECT_TRUE(caller.Ask().ok());
  const Connection silent = served_->Dial();
  EXPECT_TRUE(Hear(silent.fd).hung_up);
  EXPECT_TRUE(Eventually([&] { return served_->door().proven() == 1; }));
  EXPECT_TRUE(caller.Ask().ok());
}

TEST_F(DoorTest, CallAndClaimPlayedAgain_AreRefused) {
  Open();
  CoordinatorGreeting honest(BehindADoor::kKey, served_->target(), RandomBytes(kNonceBytes));
  std::string claim;
  {
    const Descriptor fd = Connected(served_->target());
    Say(fd, honest.call());
    const absl::StatusOr<std::string> made = honest.TakeAnswer(Hear(fd, kAnswerBytes).bytes);
    ASSERT_TRUE(made.ok()) << made.status();
    claim = *made;
    Say(fd, claim);
    EXPECT_TRUE(honest.TakeVerdict(Hear(fd, kVerdictBytes).bytes).ok());
  }
  const Descriptor again = Connected(served_->target());
  Say(again, honest.call());
  EXPECT_EQ(Hear(again, kAnswerBytes).bytes.size(), kAnswerBytes);
  Say(again, claim);
  const Heard heard = Hear(again);
  EXPECT_TRUE(heard.hung_up);
  EXPECT_EQ(heard.bytes, "");
}

// Listens, and passes every byte of one connection on to `to` and back.
class Relay {
 public:
  explicit Relay(std::string to) : to_(std::move(to)), thread_([this] { Pass(); }) {}
  ~Relay() { thread_.join(); }
  const std::string& target() const { return listening_.address; }

 private:
  void Pass() {
    const Descriptor near(accept(listening_.fd.get(), nullptr, nullptr));
    const Descriptor far = Connected(to_);
    while (true) {
      pollfd both[] = {{near.get(), POLLIN, 0}, {far.get(), POLLIN, 0}};
      if (poll(both, 2, 20'000) <= 0) return;
      for (const bool forth : {true, false}) {
        if (both[forth ? 0 : 1].revents == 0) continue;
        char buffer[4096];
        const ssize_t count = recv((forth ? near : far).get(), buffer, sizeof(buffer), 0);
        if (count <= 0) return;
        (void)!send((forth ? far : near).get(), buffer, count, MSG_NOSIGNAL);
      }
    }
  }

  static ListeningSocket Listen() {
    absl::StatusOr<ListeningSocket> socket = ListenOn("127.0.0.1:0");
    EXPECT_TRUE(socket.ok()) << socket.status();
    // accept() here waits.
    fcntl(socket->fd.get(), F_SETFL, 0);
    return *std::move(socket);
  }

  const ListeningSocket listening_ = Listen();
  const std::string to_;
  std::thread thread_;
};

TEST_F(DoorTest, RelayToARealAgent_IsNotBelieved) {
  Open();
  Relay relay(served_->target());
  const absl::Status status = DialAgent(relay.target(), BehindADoor::kKey, kPatience).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << status;
  EXPECT_EQ(served_->door().proven(), 0u);
}

// ---- What a caller hears where no agent is

TEST(Dial, NobodyListens_IsUnavailableWithTheErrno) {
  std::string target;
  {
    const absl::StatusOr<ListeningSocket> socket = ListenOn("127.0.0.1:0");
    ASSERT_TRUE(socket.ok()) << socket.status();
    target = socket->address;
  }
  const absl::Status status = DialAgent(target, BehindADoor::kKey, kPatience).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("Connection refused"));
}

TEST(Dial, OffLoopback_IsRefusedBeforeAnythingIsSent) {
  EXPECT_EQ(DialAgent("192.0.2.1:1", BehindADoor::kKey, kPatience).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(Dial, PortThatNeverAnswers_IsUnavailableInTime) {
  const absl::StatusOr<ListeningSocket> socket = ListenOn("127.0.0.1:0");
  ASSERT_TRUE(socket.ok()) << socket.status();
  const absl::Status status =
      DialAgent(socket->address, BehindADoor::kKey, absl::Milliseconds(50)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("is another program listening there"));
}

TEST(Dial, OtherProgram_IsNamedAndHearsTheCallAlone) {
  const absl::StatusOr<ListeningSocket> socket = ListenOn("127.0.0.1:0");
  ASSERT_TRUE(socket.ok()) << socket.status();
  fcntl(socket->fd.get(), F_SETFL, 0);
  std::string heard;
  std::thread program([&] {
    const Descriptor fd(accept(socket->fd.get(), nullptr, nullptr));
    Say(fd, "HTTP/1.1 400 Bad Request\r\n\r\n");
    heard = Hear(fd).bytes;
  });
  const absl::Status status = DialAgent(socket->address, BehindADoor::kKey, kPatience).status();
  program.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("speaks HTTP"));
  EXPECT_LE(heard.size(), kCallBytes);
}

// An agent that drops us with a flood of strangers may be there all the same.
TEST(Dial, WhoHangsUpWithoutAWord_IsCalledAgain) {
  const absl::StatusOr<ListeningSocket> socket = ListenOn("127.0.0.1:0");
  ASSERT_TRUE(socket.ok()) << socket.status();
  fcntl(socket->fd.get(), F_SETFL, 0);
  int calls = 0;
  std::thread program([&] {
    while (Descriptor(accept(socket->fd.get(), nullptr, nullptr)).get() >= 0) ++calls;
  });
  const absl::Status status = DialAgent(socket->address, BehindADoor::kKey, kPatience).status();
  shutdown(socket->fd.get(), SHUT_RD);  // accept() comes back
  program.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("closed without a word"));
  EXPECT_GT(calls, 1);
}

// ---- The kernel's word

TEST_F(DoorTest, UnixSocket_IsForOneUserAndGoneWithItsDoor) {
  Door::Options options = BehindADoor::Options();
  options.listen = Socket();
  options.judge = [](const Caller& caller) {
    EXPECT_EQ(caller.pid, getpid());
    EXPECT_EQ(caller.uid, geteuid());
    return absl::OkStatus();
  };
  const std::string path = options.listen.substr(5);
  Open(options);
  struct stat info = {};
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  ExpectServed();
  served_.reset();
  EXPECT_NE(access(path.c_str(), F_OK), 0);
}

TEST_F(DoorTest, WhoIsNotAdmitted_IsTold) {
  Door::Options options = BehindADoor::Options();
  options.listen = Socket();
  options.judge = [](const Caller&) { return absl::PermissionDeniedError("is nobody we know"); };
  Open(options);
  EXPECT_EQ(Dial().code(), absl::StatusCode::kPermissionDenied);
}

TEST_F(DoorTest, ListenerOfAnotherUserOrProcess_IsToldNothing) {
  Door::Options options = BehindADoor::Options();
  options.listen = Socket();
  options.judge = [](const Caller&) { return absl::OkStatus(); };
  Open(options);
  EXPECT_EQ(
      DialAgent(served_->target(), BehindADoor::kKey, kPatience, geteuid() + 1).status().code(),
      absl::StatusCode::kPermissionDenied);
  const std::string path = served_->target().substr(5);
  for (const auto& [uid, pid] : std::vector<std::pair<uint32_t, int32_t>>{
           {geteuid() + 1, getpid()}, {geteuid(), getpid() + 1}, {geteuid(), 0}}) {
    const absl::Status status = DialHost(path, uid, pid, kPatience).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("nothing was told to it"));
  }
}

TEST_F(DoorTest, WithoutAKey_TheKernelsWordIsTheTicket_AndOneProcessGetsSoMany) {
  Door::Options options = BehindADoor::Options();
  options.listen = Socket();
  options.cluster_key = "";
  options.most_of_one = 2;
  options.judge = [](const Caller&) { return absl::OkStatus(); };
  Open(options);
  const std::string path = served_->target().substr(5);
  const auto dial = [&] { return DialHost(path, geteuid(), getpid(), kPatience); };
  absl::StatusOr<Connection> first = dial();
  ASSERT_TRUE(first.ok()) << first.status();
  const std::string ticket = first->ticket;
  OneCall caller(MakeChannel(*std::move(first), Keepalive::kOff), ticket);
  EXPECT_EQ(caller.Ask()->pid(), getpid());
  const absl::StatusOr<Connection> second = dial();
  EXPECT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(dial().status().code(), absl::StatusCode::kResourceExhausted);
}

// ---- Nothing left

int OpenDescriptors() {
  int highest = 0;
  DIR* const folder = opendir("/proc/self/fd");
  while (const dirent* entry = readdir(folder)) highest = std::max(highest, atoi(entry->d_name));
  closedir(folder);
  return highest;
}

absl::Duration CpuTime() {
  timespec time = {};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return absl::DurationFromTimespec(time);
}

// Lowers the limit to what is open, until it goes.
class NoDescriptors {
 public:
  NoDescriptors() {
    getrlimit(RLIMIT_NOFILE, &before_);
    rlimit none = before_;
    none.rlim_cur = static_cast<rlim_t>(OpenDescriptors());
    setrlimit(RLIMIT_NOFILE, &none);
    // Holes below.
    while (true) {
      const int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
      if (fd < 0) break;
      holes_.push_back(Descriptor(fd));
    }
  }
  ~NoDescriptors() { setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_;
  std::list<Descriptor> holes_;
};

TEST_F(DoorTest, WithoutADescriptor_CallersAreDroppedAndTheDoorDoesNotSpin) {
  Door::Options options = BehindADoor::Options();
  options.prove_within = absl::Milliseconds(200);  // of one that still finds a descriptor
  Open(options);
  ExpectServed();
  EXPECT_TRUE(Eventually([&] { return served_->door().proven() == 0; }));
  std::list<Descriptor> callers;
  for (int i = 0; i < 20; ++i) {
    callers.push_back(Descriptor(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)));
  }
  const sockaddr_in address = {.sin_family = AF_INET,
                               .sin_port = htons(static_cast<uint16_t>(served_->door().port())),
                               .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)},
                               .sin_zero = {}};
  {
    const NoDescriptors none;
    const absl::Duration cpu = CpuTime();
    for (const Descriptor& fd : callers) {
      EXPECT_EQ(connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    }
    for (const Descriptor& fd : callers) EXPECT_TRUE(Hear(fd).hung_up);
    poll(nullptr, 0, 200);  // in which one that spins would use all of it
    EXPECT_LT(CpuTime() - cpu, absl::Milliseconds(100));
  }
  ExpectServed();
}

}  // namespace
}  // namespace dsrun
