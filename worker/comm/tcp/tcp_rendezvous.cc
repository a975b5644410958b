#include "worker/comm/tcp/tcp_rendezvous.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <iterator>
#include <list>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/clock.h"
#include "common/base/escaped.h"
#include "common/base/file_system.h"
#include "common/base/limits.h"
#include "common/base/patience.h"
#include "common/base/status_macros.h"
#include "common/base/waits.h"
#include "common/rpc/loopback.h"
#include "common/rpc/sockets.h"
#include "worker/comm/core/communicator.h"
#include "worker/comm/tcp/frame_socket.h"

namespace dsrun::worker {
namespace {

constexpr char kGreeting[] = "dsrun-meeting 1";
constexpr char kWelcome[] = "welcome";
constexpr char kAway[] = "away";
constexpr size_t kMostGreeting = 4096;
constexpr size_t kMostBlob = size_t{64} << 20;
// Who has connected and said nothing yet; the one that has been silent for longest makes room.
constexpr size_t kMostGuests = 64;
constexpr absl::Duration kBetweenTries = absl::Milliseconds(50);

std::string At(const MeetingPlace& place) {
  return absl::StrCat(place.address, " (MASTER_ADDR, MASTER_PORT)");
}

SteadyTime DeadlineOf(const MeetingPlace& place) {
  return Clock::Real().SteadyNow() + std::min(place.timeout, kLongestWait);
}

// Lists in messages are bounded.
std::string RanksText(const std::vector<int>& ranks) {
  constexpr size_t kShown = 8;
  const std::vector<int> shown(
      ranks.begin(), ranks.begin() + static_cast<std::ptrdiff_t>(std::min(ranks.size(), kShown)));
  return absl::StrCat(
      ranks.size() == 1 ? "rank " : "ranks ", absl::StrJoin(shown, ", "),
      ranks.size() > kShown ? absl::StrCat(" and ", ranks.size() - kShown, " more") : "");
}

// What a rank says of itself; the job comes last, because it may hold anything.
std::string GreetingOf(const MeetingPlace& place) {
  return absl::StrCat(kGreeting, "\n", place.rank, "\n", place.size, "\n", place.generation, "\n",
                      place.job);
}

struct Greeting {
  int rank = 0;
  int size = 0;
  int64_t generation = 0;
  std::string job;
};

std::optional<Greeting> ParseGreeting(const std::string& text) {
  const std::vector<std::string> parts = absl::StrSplit(text, absl::MaxSplits('\n', 4));
  Greeting greeting;
  if (parts.size() != 5 || parts[0] != kGreeting || !absl::SimpleAtoi(parts[1], &greeting.rank) ||
      !absl::SimpleAtoi(parts[2], &greeting.size) ||
      !absl::SimpleAtoi(parts[3], &greeting.generation)) {
    return std::nullopt;
  }
  greeting.job = parts[4];
  return greeting;
}

std::string PackTable(const std::vector<std::string>& table) {
  std::string packed;
  for (const std::string& blob : table) {
    const auto length = static_cast<uint32_t>(blob.size());
    packed.append(reinterpret_cast<const char*>(&length), sizeof(length));
    packed.append(blob);
  }
  return packed;
}

absl::StatusOr<std::vector<std::string>> UnpackTable(const std::string& packed, int size) {
  std::vector<std::string> table;
  size_t at = 0;
  while (static_cast<int>(table.size()) < size) {
    uint32_t length = 0;
    if (packed.size() - at < sizeof(length)) break;
    std::memcpy(&length, packed.data() + at, sizeof(length));
    at += sizeof(length);
    if (packed.size() - at < length) break;
    table.push_back(packed.substr(at, length));
    at += length;
  }
  if (static_cast<int>(table.size()) == size && at == packed.size()) return table;
  return absl::DataLossError("rank 0 has answered something that is no table of all ranks");
}

// A size of one.
class Alone final : public TcpRendezvous {
 public:
  absl::StatusOr<std::vector<std::string>> Exchange(const std::string&,
                                                    const std::string& mine) override {
    return std::vector<std::string>{mine};
  }
  const std::string& token() const override { return token_; }

 private:
  const std::string token_ = RandomDigits();
};

// Rank 0.
class Host final : public TcpRendezvous {
 public:
  explicit Host(const MeetingPlace& place)
      : place_(place), token_(absl::StrCat(RandomDigits(), RandomDigits())) {}

  // Returns when all others are there.
  absl::Status Receive() {
    const SteadyTime deadline = DeadlineOf(place_);
    absl::StatusOr<ListeningSocket> door = ListenOn(place_.address);
    RETURN_IF_ERROR(door.status()) << "rank 0 of " << place_.size << ", at " << At(place_);
    while (static_cast<int>(peers_.size()) + 1 < place_.size) {
      if (!AwaitGuests(door->fd.get(), deadline)) return NotAllCame();
      RETURN_IF_ERROR(Admit(door->fd.get()));
      for (auto guest = guests_.begin(); guest != guests_.end();) {
        guest = Hear(*guest, deadline) ? guests_.erase(guest) : std::next(guest);
      }
    }
    guests_.clear();
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<std::string>> Exchange(const std::string& name,
                                                    const std::string& mine) override {
    const SteadyTime deadline = DeadlineOf(place_);
    std::vector<std::string> table(static_cast<size_t>(place_.size));
    table[0] = mine;
    for (auto& [rank, peer] : peers_) {
      const absl::StatusOr<std::string> said = peer.Receive(deadline);
      RETURN_IF_ERROR(OfPeer(said.status(), rank, name));
      const size_t end = said->find('\0');
      const std::string other = said->substr(0, end);
      if (end == std::string::npos || other != name) {
        return WithPeerRank(
            absl::FailedPreconditionError(absl::StrCat(
                "the ranks meet for different things: rank 0 for '", name, "', rank ", rank,
                " for '", other, "'; all ranks must run the same program in the same way")),
            rank);
      }
      table[static_cast<size_t>(rank)] = said->substr(end + 1);
    }
    const std::string packed = PackTable(table);
    for (auto& [rank, peer] : peers_) {
      RETURN_IF_ERROR(OfPeer(peer.Send(packed, deadline), rank, name));
    }
    return table;
  }

  const std::string& token() const override { return token_; }

 private:
  absl::Status OfPeer(const absl::Status& status, int rank, const std::string& name) const {
    if (status.ok()) return status;
    return WithPeerRank(Annotate(status, absl::StrCat("rank 0 meets rank ", rank, " at ",
                                                      place_.address, " for '", name, "'")),
                        rank);
  }

  // Until somebody knocks or speaks; false: the deadline has passed.
  bool AwaitGuests(int door, SteadyTime deadline) const {
    std::vector<pollfd> waiting = {{.fd = door, .events = POLLIN, .revents = 0}};
    for (const FrameSocket& guest : guests_) {
      waiting.push_back({.fd = guest.fd(), .events = POLLIN, .revents = 0});
    }
    const absl::Duration left = deadline - Clock::Real().SteadyNow();
    if (left <= absl::ZeroDuration()) return false;
    poll(waiting.data(), waiting.size(), PollMilliseconds(left));
    return true;
  }

  absl::Status Admit(int door) {
    while (true) {
      Descriptor fd(accept4(door, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      const int error = errno;
      // Who knocks stays before the door, and it would be asked again and again.
      if (fd.get() < 0 && (error == EMFILE || error == ENFILE)) {
        return absl::ResourceExhaustedError(absl::StrCat("rank 0 cannot let anybody in at ",
                                                         At(place_), ": ", strerror(error),
                                                         BecauseOfLimit(error)));
      }
      if (fd.get() < 0) return absl::OkStatus();
      if (!IsPeerOnLoopback(fd.get())) continue;
      SetNoDelay(fd.get());
      if (guests_.size() == kMostGuests) guests_.pop_front();
      guests_.emplace_back(std::move(fd), kMostGreeting);
    }
  }

  // True: it is a guest no longer, but a peer, or gone.
  bool Hear(FrameSocket& guest, SteadyTime deadline) {
    absl::StatusOr<std::optional<std::string>> said = guest.TakeArrived();
    if (said.ok() && !said->has_value()) return false;
    if (!said.ok()) return true;
    const std::optional<Greeting> greeting = ParseGreeting(**said);
    if (!greeting.has_value()) return true;
    if (const std::string why = WhyNot(*greeting); !why.empty()) {
      sent_away_ = why;
      guest.Send(absl::StrCat(kAway, "\n", why), deadline).IgnoreError();
      return true;
    }
    if (!guest.Send(absl::StrCat(kWelcome, "\n", token_), deadline).ok()) return true;
    guest.set_most_bytes(kMostBlob);
    peers_.emplace(greeting->rank, std::move(guest));
    return true;
  }

  std::string WhyNot(const Greeting& guest) const {
    const std::string who = absl::StrCat("rank ", guest.rank, " of ", guest.size);
    if (guest.job != place_.job || guest.generation != place_.generation) {
      return absl::StrCat("here meets job ", place_.job, ", start ", place_.generation, "; ", who,
                          " is of job ", Escaped(guest.job), ", start ", guest.generation);
    }
    if (guest.size != place_.size || guest.rank < 1 || guest.rank >= place_.size) {
      return absl::StrCat("here meet ", place_.size, " ranks (WORLD_SIZE of rank 0); got ", who);
    }
    return peers_.contains(guest.rank) ? absl::StrCat(who, " is here already") : std::string();
  }

  absl::Status NotAllCame() const {
    std::vector<int> missing;
    for (int rank = 1; rank < place_.size; ++rank) {
      if (!peers_.contains(rank)) missing.push_back(rank);
    }
    return WithPeerRank(
        absl::DeadlineExceededError(absl::StrCat(
            "rank 0 of ", place_.size, " waited for ", absl::FormatDuration(place_.timeout), " at ",
            At(place_), ", and ", RanksText(missing), " did not come",
            sent_away_.empty() ? "" : absl::StrCat("; it sent one away: ", sent_away_),
            "; see what became of them, or raise --join-timeout")),
        missing.front());
  }

  const MeetingPlace place_;
  const std::string token_;
  std::list<FrameSocket> guests_;     // who has not said who it is
  std::map<int, FrameSocket> peers_;  // by rank
  std::string sent_away_;             // the last one's reason
};

// All others.
class Guest final : public TcpRendezvous {
 public:
  explicit Guest(const MeetingPlace& place) : place_(place) {}

  absl::Status Come() {
    const SteadyTime deadline = DeadlineOf(place_);
    absl::Status last;
    while (true) {
      last = TryOnce(deadline);
      if (last.ok() || absl::IsFailedPrecondition(last) || absl::IsInvalidArgument(last)) break;
      if (Clock::Real().SteadyNow() + kBetweenTries >= deadline) break;
      SleepUnless(kBetweenTries, nullptr);
    }
    if (last.ok()) return last;
    if (absl::IsFailedPrecondition(last) || absl::IsInvalidArgument(last)) {
      return Annotate(last,
                      absl::StrCat("rank ", place_.rank, " of ", place_.size, ", at ", At(place_)));
    }
    return WithPeerRank(
        absl::DeadlineExceededError(absl::StrCat(
            "rank ", place_.rank, " of ", place_.size, " came to ", At(place_), " for ",
            absl::FormatDuration(place_.timeout), " and did not find rank 0: ", last.message(),
            "; see what became of rank 0, or raise --join-timeout")),
        0);
  }

  absl::StatusOr<std::vector<std::string>> Exchange(const std::string& name,
                                                    const std::string& mine) override {
    const SteadyTime deadline = DeadlineOf(place_);
    RETURN_IF_ERROR(
        OfHost(host_->Send(absl::StrCat(name, std::string(1, '\0'), mine), deadline), name));
    const absl::StatusOr<std::string> packed = host_->Receive(deadline);
    RETURN_IF_ERROR(OfHost(packed.status(), name));
    return UnpackTable(*packed, place_.size);
  }

  const std::string& token() const override { return token_; }

 private:
  absl::Status OfHost(const absl::Status& status, const std::string& name) const {
    if (status.ok()) return status;
    return WithPeerRank(Annotate(status, absl::StrCat("rank ", place_.rank, " meets rank 0 at ",
                                                      place_.address, " for '", name, "'")),
                        0);
  }

  absl::Status TryOnce(SteadyTime deadline) {
    ASSIGN_OR_RETURN(Descriptor fd, ConnectTo(place_.address, deadline));
    FrameSocket host(std::move(fd), kMostBlob);
    RETURN_IF_ERROR(host.Send(GreetingOf(place_), deadline));
    ASSIGN_OR_RETURN(const std::string answer, host.Receive(deadline));
    const size_t line = answer.find('\n');
    const std::string word = answer.substr(0, line);
    const std::string rest = line == std::string::npos ? "" : answer.substr(line + 1);
    if (word == kAway) {
      return absl::FailedPreconditionError(absl::StrCat("rank 0 sends it away: ", rest));
    }
    if (word != kWelcome) return absl::UnavailableError("somebody else is there");
    token_ = rest;
    host_.emplace(std::move(host));
    return absl::OkStatus();
  }

  const MeetingPlace place_;
  std::string token_;
  std::optional<FrameSocket> host_;
};

absl::Status Check(const MeetingPlace& place) {
  if (place.size < 1 || place.rank < 0 || place.rank >= place.size) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", place.rank, " of ", place.size,
                                                   ": expected a rank from 0 to one less than "
                                                   "the ranks (RANK, WORLD_SIZE)"));
  }
  if (place.size == 1) return absl::OkStatus();
  if (place.address.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", place.rank, " of ", place.size,
                     " does not know where to meet the others: MASTER_ADDR and MASTER_PORT are not "
                     "set; start the program with dsrun"));
  }
  if (CheckLoopbackTarget(place.address).ok()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("rank ", place.rank, " of ", place.size, ": ", At(place),
                   " is off loopback: refused until TLS exists; run all ranks on one machine, with "
                   "an address such as 127.0.0.1"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<TcpRendezvous>> TcpRendezvous::Meet(const MeetingPlace& place) {
  RETURN_IF_ERROR(Check(place));
  if (place.size == 1) return std::make_unique<Alone>();
  if (place.rank == 0) {
    auto host = std::make_unique<Host>(place);
    RETURN_IF_ERROR(host->Receive());
    return host;
  }
  auto guest = std::make_unique<Guest>(place);
  RETURN_IF_ERROR(guest->Come());
  return guest;
}

}  // namespace dsrun::worker
