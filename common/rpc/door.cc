#include "common/rpc/door.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/counted.h"
#include "common/base/limits.h"
#include "common/base/logging.h"
#include "common/base/status_macros.h"
#include "common/base/thread.h"
#include "common/base/waits.h"
#include "common/rpc/loopback.h"
#include "common/rpc/secrets.h"
#include "common/rpc/server.h"

namespace dsrun {
namespace {

constexpr size_t kMostAcceptsInARow = 16;
constexpr absl::Duration kAfterTrouble = absl::Milliseconds(50);
constexpr int kLines = 10;
constexpr absl::Duration kLinesPeriod = absl::Seconds(10);

Descriptor NewReserve() { return Descriptor(open("/dev/null", O_RDONLY | O_CLOEXEC)); }

// A few bytes into a connection that has read all before: they fit, or the other side plays with
// us.
bool Say(int fd, const std::string& bytes) {
  return send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
}

bool IsPath(const std::string& address) { return absl::StartsWith(address, kUnixScheme); }

// Why a visitor that was there is not any more.
std::string WhyGone(const AgentGreeting& greeting, bool began) {
  if (greeting.wanted() == kClaimBytes) {
    return "hung up at our proof: it has another cluster key, or only looked who is here";
  }
  return began ? "hung up in the middle of its greeting" : "hung up without a word";
}

std::string WhyLate(const AgentGreeting& greeting, bool began, absl::Duration limit) {
  const char* const what = greeting.wanted() == kClaimBytes ? "did not prove itself"
                           : began                          ? "did not finish its greeting"
                                                            : "said nothing";
  return absl::StrCat(what, " within ", absl::FormatDuration(limit));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Door>> Door::Open(Options options, RpcServer* server,
                                                 GuestList* guests) {
  ASSIGN_OR_RETURN(ListeningSocket listening, ListenOn(options.listen, options.owner));
  ASSIGN_OR_RETURN(WakeFd wake, WakeFd::Create());
  std::unique_ptr<Door> door(
      new Door(std::move(options), std::move(listening), std::move(wake), server, guests));
  ASSIGN_OR_RETURN(door->thread_, StartThread("a door", [d = door.get()] { d->Loop(); }));
  return door;
}

Door::Door(Options options, ListeningSocket listening, WakeFd wake, RpcServer* server,
           GuestList* guests)
    : options_(std::move(options)),
      listening_(std::move(listening)),
      wake_(std::move(wake)),
      server_(server),
      guests_(guests),
      lines_(kLines, kLinesPeriod) {
  reserve_.emplace(NewReserve());
}

Door::~Door() {
  {
    MutexLock lock(mu_);
    closing_ = true;
  }
  wake_.Wake();
  if (thread_.joinable()) thread_.join();
  if (IsPath(listening_.address)) unlink(listening_.address.c_str() + kUnixScheme.size());
  MutexLock lock(mu_);
  for (const Resident& resident : residents_) guests_->Forget(resident.ticket);
}

size_t Door::proven() const {
  MutexLock lock(mu_);
  return residents_.size();
}

void Door::CutAll() {
  MutexLock lock(mu_);
  for (const Resident& resident : residents_) shutdown(resident.watch.get(), SHUT_RDWR);
}

void Door::Loop() {
  std::vector<pollfd> fds;
  std::vector<short> residents;
  while (true) {
    SteadyTime now = Clock::Real().SteadyNow();
    fds.clear();
    fds.push_back({wake_.fd(), POLLIN, 0});
    fds.push_back({now < accept_again_at_ ? -1 : listening_.fd.get(), POLLIN, 0});
    for (const Visitor& visitor : visitors_) fds.push_back({visitor.fd.get(), POLLIN, 0});
    {
      MutexLock lock(mu_);
      if (closing_) return;
      for (const Resident& resident : residents_) fds.push_back({resident.watch.get(), 0, 0});
    }
    poll(fds.data(), fds.size(), PollMilliseconds(NextDeadline() - now));
    now = Clock::Real().SteadyNow();
    // Those that were there when it began: each has its place in `fds`.
    residents.clear();
    for (size_t i = 2 + visitors_.size(); i < fds.size(); ++i) residents.push_back(fds[i].revents);
    size_t at = 2;
    for (auto visitor = visitors_.begin(); visitor != visitors_.end();) {
      const bool ready = fds[at++].revents != 0;
      const bool late = now >= visitor->until;
      if (late && !ready) {
        Refuse(visitor->caller,
               WhyLate(visitor->greeting, !visitor->got.empty(), options_.prove_within));
      }
      const bool stays = ready ? Visit(*visitor, now) : !late;
      visitor = stays ? std::next(visitor) : visitors_.erase(visitor);
    }
    LookAtResidents(residents, now);
    if (fds[1].revents != 0) AcceptAll(now);
  }
}

SteadyTime Door::NextDeadline() const {
  SteadyTime next = absl::InfiniteDuration();
  if (accept_again_at_ > Clock::Real().SteadyNow()) next = accept_again_at_;
  for (const Visitor& visitor : visitors_) next = std::min(next, visitor.until);
  MutexLock lock(mu_);
  for (const Resident& resident : residents_) {
    if (!resident.guest->settled) next = std::min(next, resident.settle_by);
  }
  return next;
}

// ---- Who knocks

// Then what was said is read: each is heard before it can go.
int Door::AcceptsInARow() const {
  return static_cast<int>(std::clamp<size_t>(options_.most_unproven / 2, 1, kMostAcceptsInARow));
}

void Door::AcceptAll(SteadyTime now) {
  const int most = AcceptsInARow();
  for (int i = 0; i < most && !IsClosing() && AcceptOne(now); ++i) {
  }
}

// Whoever closes this door waits for its thread: nobody is judged any more.
bool Door::IsClosing() const {
  MutexLock lock(mu_);
  return closing_;
}

bool Door::AcceptOne(SteadyTime now) {
  Descriptor fd(accept4(listening_.fd.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (fd.get() >= 0) {
    Receive(std::move(fd), now);
    return true;
  }
  const int error = errno;
  if (error == EAGAIN || error == EWOULDBLOCK) return false;
  if (error == EINTR || error == ECONNABORTED || error == EPROTO) return true;
  DropOne(error, now);
  return now >= accept_again_at_;
}

// Whoever waits there would make poll come back again and again: it is let in with the descriptor
// that is kept for this, and dropped.
void Door::DropOne(int error, SteadyTime now) {
  reserve_.reset();
  bool helped = false;
  {
    const Descriptor dropped(accept4(listening_.fd.get(), nullptr, nullptr, SOCK_CLOEXEC));
    helped = dropped.get() >= 0;
  }
  reserve_.emplace(NewReserve());
  // Somebody else was faster with it, or it is something else that is lacking: not in a circle.
  if (!helped || reserve_->get() < 0) accept_again_at_ = now + kAfterTrouble;
  Report(absl::StrCat("a caller ", helped ? "was dropped" : "has to wait", ": ", strerror(error),
                      BecauseOfLimit(error)));
}

void Door::Receive(Descriptor fd, SteadyTime now) {
  Caller caller;
  if (const absl::Status status = Judge(caller, fd.get()); !status.ok()) {
    const std::string answer = options_.cluster_key.empty()
                                   ? Welcome(DoorVerdict::kNotAdmitted, "")
                                   : RefusingAnswer(DoorVerdict::kNotAdmitted);
    (void)Say(fd.get(), answer);
    return Refuse(caller, std::string(status.message()));
  }
  SetNoDelay(fd.get());
  if (options_.cluster_key.empty()) {
    const std::string ticket = RandomBytes(kTicketBytes);
    const DoorVerdict verdict = RoomFor(caller);
    if (verdict != DoorVerdict::kWelcome) {
      (void)Say(fd.get(), Welcome(verdict, ""));
      return Refuse(caller, "has as many connections as it may have");
    }
    return LetIn(std::move(fd), caller, ticket, Welcome(verdict, ticket), now);
  }
  if (visitors_.size() >= options_.most_unproven) MakeRoom(now);
  const std::string address = AddressHere(fd.get());
  visitors_.push_back(
      {.fd = std::move(fd),
       .caller = std::move(caller),
       .until = now + options_.prove_within,
       .owes_since = now,
       .greeting = AgentGreeting(options_.cluster_key, address, RandomBytes(kNonceBytes)),
       .got = ""});
  if (!Visit(visitors_.back(), now)) visitors_.pop_back();
}

// The rule in door.h. REQUIRES: there is a visitor.
std::list<Door::Visitor>::iterator Door::WhoGoes(SteadyTime now) {
  const auto silent = [](const Visitor& visitor) { return !visitor.has_called(); };
  const auto oldest_silent = std::ranges::find_if(visitors_, silent);
  if (oldest_silent != visitors_.end() && now - oldest_silent->owes_since > options_.moment) {
    return oldest_silent;
  }
  const auto silent_ones = static_cast<size_t>(std::ranges::count_if(visitors_, silent));
  if (oldest_silent != visitors_.end() && silent_ones >= (visitors_.size() + 1) / 2) {
    return oldest_silent;
  }
  auto longest = visitors_.end();
  for (auto visitor = visitors_.begin(); visitor != visitors_.end(); ++visitor) {
    if (!visitor->has_called()) continue;
    if (longest == visitors_.end() || visitor->owes_since < longest->owes_since) longest = visitor;
  }
  return longest;
}

void Door::MakeRoom(SteadyTime now) {
  const auto goes = WhoGoes(now);
  Refuse(goes->caller,
         absl::StrCat(goes->has_called() ? "called, but did not prove itself" : "said nothing",
                      " for ", absl::FormatDuration(now - goes->owes_since),
                      " while too many others came"));
  visitors_.erase(goes);
}

absl::Status Door::Judge(Caller& caller, int fd) const {
  if (!IsPath(listening_.address)) {
    caller.address = AddressThere(fd);
    if (IsPeerOnLoopback(fd)) return absl::OkStatus();
    return absl::PermissionDeniedError(
        "is not on loopback; off loopback everything is refused until TLS exists");
  }
  ASSIGN_OR_RETURN(const PeerCredentials credentials, CredentialsOf(fd));
  caller = {.address = absl::StrCat("pid ", credentials.pid, " of uid ", credentials.uid),
            .local = true,
            .pid = credentials.pid,
            .uid = credentials.uid};
  return options_.judge(caller);
}

// ---- Who proves itself

bool Door::Visit(Visitor& visitor, SteadyTime now) {
  char buffer[kAnswerBytes];
  const size_t missing = visitor.greeting.wanted() - visitor.got.size();
  const ssize_t count = recv(visitor.fd.get(), buffer, missing, 0);
  if (count < 0 && (errno == EINTR || errno == EAGAIN)) return true;
  if (count <= 0) {
    Refuse(visitor.caller, WhyGone(visitor.greeting, !visitor.got.empty()));
    return false;
  }
  visitor.got.append(buffer, count);
  const bool is_call = visitor.greeting.wanted() == kCallBytes;
  if (is_call && !BeginsAsGreeting(visitor.got)) {
    Refuse(visitor.caller, StrangerWords(visitor.got));
    return false;
  }
  if (visitor.got.size() < visitor.greeting.wanted()) return true;
  const AgentGreeting::Reply reply = visitor.greeting.Take(visitor.got);
  visitor.got.clear();
  const bool said = Say(visitor.fd.get(), reply.say);
  if (!reply.refused.ok()) {
    Refuse(visitor.caller, std::string(reply.refused.message()));
    return false;
  }
  visitor.owes_since = now;
  if (!visitor.greeting.proven()) return said;
  const DoorVerdict verdict = RoomFor(visitor.caller);
  const std::string words = visitor.greeting.Verdict(verdict);
  if (verdict != DoorVerdict::kWelcome) {
    (void)Say(visitor.fd.get(), words);
    Refuse(visitor.caller, "is one too many");
    return false;
  }
  LetIn(std::move(visitor.fd), visitor.caller, visitor.greeting.ticket(), words, now);
  return false;
}

// ---- Who is in

DoorVerdict Door::RoomFor(const Caller& caller) const {
  MutexLock lock(mu_);
  if (residents_.size() >= options_.most_proven) return DoorVerdict::kFull;
  if (!caller.local) return DoorVerdict::kWelcome;
  const auto same = std::count_if(
      residents_.begin(), residents_.end(),
      [&](const Resident& resident) { return resident.guest->caller.pid == caller.pid; });
  return static_cast<size_t>(same) >= options_.most_of_one ? DoorVerdict::kFull
                                                           : DoorVerdict::kWelcome;
}

void Door::LetIn(Descriptor fd, const Caller& caller, const std::string& ticket,
                 const std::string& welcome, SteadyTime now) {
  Descriptor watch(fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
  if (watch.get() < 0) {
    const int error = errno;
    return Refuse(caller, absl::StrCat("is proven, but cannot be served: ", strerror(error),
                                       BecauseOfLimit(error)));
  }
  auto guest = std::make_shared<Guest>(caller);
  guests_->Add(ticket, guest);
  if (!Say(fd.get(), welcome)) {
    guests_->Forget(ticket);
    return Refuse(caller, "hung up before it was welcomed");
  }
  {
    MutexLock lock(mu_);
    residents_.push_back({.watch = std::move(watch),
                          .ticket = ticket,
                          .guest = std::move(guest),
                          .settle_by = now + options_.settle_within});
  }
  server_->Adopt(std::move(fd));
}

void Door::LookAtResidents(const std::vector<short>& events, SteadyTime now) {
  std::vector<std::shared_ptr<Guest>> late;
  {
    MutexLock lock(mu_);
    auto resident = residents_.begin();
    for (const short event : events) {
      const bool is_late = event == 0 && !resident->guest->settled && now >= resident->settle_by;
      if (is_late) {
        shutdown(resident->watch.get(), SHUT_RDWR);
        late.push_back(resident->guest);
      }
      if (event != 0 || is_late) guests_->Forget(resident->ticket);
      resident = event != 0 || is_late ? residents_.erase(resident) : std::next(resident);
    }
  }
  for (const std::shared_ptr<Guest>& guest : late) {
    Refuse(guest->caller, absl::StrCat("came in and said nothing that counts within ",
                                       absl::FormatDuration(options_.settle_within)));
  }
}

void Door::Refuse(const Caller& caller, const std::string& why) {
  Report(absl::StrCat("caller ", caller.address, " is sent away: it ", why));
}

void Door::Report(const std::string& words) {
  int64_t left_out = 0;
  if (!lines_.Take(Clock::Real().SteadyNow(), left_out)) return;
  const std::string more =
      left_out == 0 ? ""
                    : absl::StrCat(" (", Counted(left_out, "line"), " like this left out before)");
  LOG(WARNING) << options_.name << ": " << words << more;
}

}  // namespace dsrun
