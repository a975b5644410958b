#include "common/rpc/greeting.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/logging.h"
#include "common/rpc/constant_time.h"

namespace dsrun {
namespace {

// Begins with a byte that no text and no TLS begins with; a lost bit 7 or a changed line end shows.
constexpr std::string_view kMagic =
    "\x89"
    "dsrun\r\n";
constexpr uint16_t kVersion = 1;
constexpr std::string_view kDomain = "dsrun greeting 1";
constexpr std::string_view kAgentRole = "agent";
constexpr std::string_view kCoordinatorRole = "coordinator";
constexpr std::string_view kVerdictRole = "verdict";
constexpr std::string_view kTicketRole = "ticket";
constexpr size_t kProofBytes = 32;
// Of call, answer and welcome: magic, version, code, zeros.
constexpr size_t kHeadBytes = 16;
constexpr size_t kVersionAt = 8;
constexpr size_t kCodeAt = 10;
constexpr size_t kZerosAt = 11;

static_assert(kMagic.size() == kVersionAt);
static_assert(kCallBytes == kHeadBytes + kNonceBytes);
static_assert(kAnswerBytes == kHeadBytes + kNonceBytes + kProofBytes);
static_assert(kClaimBytes == kProofBytes);
static_assert(kVerdictBytes == 8 + kProofBytes);
static_assert(kWelcomeBytes == kHeadBytes + kTicketBytes);

std::string Join(std::initializer_list<std::string_view> parts) {
  std::string all;
  for (const std::string_view part : parts) all += part;
  return all;
}

std::string Head(DoorVerdict code) {
  std::string head(kMagic);
  head.push_back(static_cast<char>(kVersion >> 8));
  head.push_back(static_cast<char>(kVersion & 0xff));
  head.push_back(static_cast<char>(code));
  head.resize(kHeadBytes, '\0');
  return head;
}

int VersionOf(std::string_view head) {
  return static_cast<uint8_t>(head[kVersionAt]) * 256 + static_cast<uint8_t>(head[kVersionAt + 1]);
}

bool EndsInZeros(std::string_view head) {
  return std::all_of(head.begin() + kZerosAt, head.begin() + kHeadBytes,
                     [](char c) { return c == '\0'; });
}

// Nothing that is put together here can be read in two ways: all parts but the last have their
// size.
std::string Proof(std::string_view key, std::string_view role, std::string_view transcript) {
  std::string text(kDomain);
  text.push_back(static_cast<char>(role.size()));
  text += role;
  text += transcript;
  unsigned char mac[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  CHECK(HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
             reinterpret_cast<const unsigned char*>(text.data()), text.size(), mac,
             &size) != nullptr)
      << "HMAC-SHA256";
  CHECK_EQ(size, kProofBytes);
  return std::string(reinterpret_cast<const char*>(mac), size);
}

std::string VerdictProof(std::string_view key, std::string_view head, std::string_view transcript) {
  return Proof(key, kVerdictRole, Join({head, transcript}));
}

std::string VerdictHead(DoorVerdict verdict) {
  std::string head(1, static_cast<char>(verdict));
  head.resize(kVerdictBytes - kProofBytes, '\0');
  return head;
}

absl::Status OtherVersion(int version) {
  return absl::InvalidArgumentError(
      absl::StrCat("expected version ", kVersion, " of the greeting, got ", version,
                   "; dsrun, dsagent and dsworker must come from one build"));
}

// OK: kWelcome.
absl::Status FromVerdict(uint8_t verdict) {
  switch (static_cast<DoorVerdict>(verdict)) {
    case DoorVerdict::kWelcome:
      return absl::OkStatus();
    case DoorVerdict::kOtherVersion:
      return absl::InvalidArgumentError(
          "the agent does not speak this version of the greeting; dsrun and dsagent must come from "
          "one build");
    case DoorVerdict::kFull:
      return absl::ResourceExhaustedError(
          "the agent has as many connections as it takes; look for other jobs on this node");
    case DoorVerdict::kNotAdmitted:
      return absl::PermissionDeniedError(
          "by the kernel's word this process is none that the agent admits; its log says whom it "
          "took it for");
  }
  return absl::UnavailableError(absl::StrCat("expected a verdict, got the number ", verdict));
}

absl::Status NotAnAgent(std::string_view bytes) {
  return absl::UnavailableError(absl::StrCat(
      "expected a dsagent, but whoever listens there ", StrangerWords(bytes),
      ": another program is listening there, or a dsagent of an earlier version; nothing was told "
      "to it"));
}

}  // namespace

// ---- The agent's side

AgentGreeting::AgentGreeting(std::string cluster_key, std::string address, std::string nonce)
    : key_(std::move(cluster_key)), address_(std::move(address)), nonce_(std::move(nonce)) {
  CHECK_EQ(nonce_.size(), kNonceBytes);
}

AgentGreeting::Reply AgentGreeting::Take(std::string_view message) {
  CHECK_EQ(message.size(), wanted_);
  return wanted_ == kCallBytes ? TakeCall(message) : TakeClaim(message);
}

AgentGreeting::Reply AgentGreeting::TakeCall(std::string_view call) {
  wanted_ = 0;
  if (!BeginsAsGreeting(call)) {
    return {.say = "", .refused = absl::InvalidArgumentError(StrangerWords(call))};
  }
  if (VersionOf(call) != kVersion) {
    return {.say = RefusingAnswer(DoorVerdict::kOtherVersion),
            .refused = OtherVersion(VersionOf(call))};
  }
  std::string answer = Head(DoorVerdict::kWelcome) + nonce_;
  transcript_ = Join({call, answer, address_});
  answer += Proof(key_, kAgentRole, transcript_);
  wanted_ = kClaimBytes;
  return {.say = std::move(answer), .refused = absl::OkStatus()};
}

AgentGreeting::Reply AgentGreeting::TakeClaim(std::string_view claim) {
  wanted_ = 0;
  proven_ = SecretsEqual(Proof(key_, kCoordinatorRole, transcript_), claim);
  if (proven_) return {};
  return {.say = "",
          .refused = absl::UnauthenticatedError(
              "gives a proof that is not one of our cluster key and of this conversation")};
}

std::string AgentGreeting::Verdict(DoorVerdict verdict) const {
  const std::string head = VerdictHead(verdict);
  return head + VerdictProof(key_, head, transcript_);
}

std::string AgentGreeting::ticket() const {
  CHECK(proven_);
  return Proof(key_, kTicketRole, transcript_).substr(0, kTicketBytes);
}

std::string RefusingAnswer(DoorVerdict verdict) {
  std::string answer = Head(verdict);
  answer.resize(kAnswerBytes, '\0');
  return answer;
}

// ---- The coordinator's side

CoordinatorGreeting::CoordinatorGreeting(std::string cluster_key, std::string address,
                                         std::string nonce)
    : key_(std::move(cluster_key)),
      address_(std::move(address)),
      call_(Head(DoorVerdict::kWelcome) + nonce) {
  CHECK_EQ(call_.size(), kCallBytes);
}

absl::StatusOr<std::string> CoordinatorGreeting::TakeAnswer(std::string_view answer) {
  CHECK_EQ(answer.size(), kAnswerBytes);
  if (!BeginsAsGreeting(answer) || !EndsInZeros(answer)) return NotAnAgent(answer);
  if (VersionOf(answer) != kVersion) return OtherVersion(VersionOf(answer));
  if (absl::Status status = FromVerdict(static_cast<uint8_t>(answer[kCodeAt])); !status.ok()) {
    return status;
  }
  const size_t proof_at = kAnswerBytes - kProofBytes;
  transcript_ = Join({call_, answer.substr(0, proof_at), address_});
  if (!SecretsEqual(Proof(key_, kAgentRole, transcript_), answer.substr(proof_at))) {
    return absl::UnauthenticatedError(
        "cluster key: whoever listens there could not prove that it has ours. Either the dsagent "
        "there was started with another key file: give both the same one. Or another program is "
        "listening in its place: look who has the address (ss -ltnp). Nothing was told to it");
  }
  return Proof(key_, kCoordinatorRole, transcript_);
}

absl::Status CoordinatorGreeting::TakeVerdict(std::string_view verdict) const {
  CHECK_EQ(verdict.size(), kVerdictBytes);
  const size_t proof_at = kVerdictBytes - kProofBytes;
  const std::string_view head = verdict.substr(0, proof_at);
  if (!SecretsEqual(VerdictProof(key_, head, transcript_), verdict.substr(proof_at))) {
    return absl::UnauthenticatedError("expected the agent's verdict, got bytes of somebody else");
  }
  return FromVerdict(static_cast<uint8_t>(head[0]));
}

std::string CoordinatorGreeting::ticket() const {
  return Proof(key_, kTicketRole, transcript_).substr(0, kTicketBytes);
}

// ---- The worker's door

std::string Welcome(DoorVerdict verdict, std::string_view ticket) {
  std::string welcome = Join({Head(verdict), ticket});
  welcome.resize(kWelcomeBytes, '\0');
  return welcome;
}

absl::StatusOr<std::string> TakeWelcome(std::string_view welcome) {
  CHECK_EQ(welcome.size(), kWelcomeBytes);
  if (!BeginsAsGreeting(welcome) || !EndsInZeros(welcome)) return NotAnAgent(welcome);
  if (VersionOf(welcome) != kVersion) return OtherVersion(VersionOf(welcome));
  if (absl::Status status = FromVerdict(static_cast<uint8_t>(welcome[kCodeAt])); !status.ok()) {
    return status;
  }
  return std::string(welcome.substr(kHeadBytes));
}

// ---- Strangers

bool BeginsAsGreeting(std::string_view bytes) {
  const size_t size = std::min(bytes.size(), kMagic.size());
  return bytes.substr(0, size) == kMagic.substr(0, size);
}

std::string StrangerWords(std::string_view bytes) {
  const auto begins = [&](std::string_view with) { return bytes.substr(0, with.size()) == with; };
  if (bytes.empty()) return "says nothing";
  // The preface of a client, and the frame of settings that a server begins with.
  if (begins("PRI ") ||
      (bytes.size() > 3 && begins(std::string_view("\0\0", 2)) && bytes[3] == 4)) {
    return "speaks HTTP/2, as our programs of earlier versions do";
  }
  if (begins("GET ") || begins("POST ") || begins("HEAD ") || begins("HTTP/")) return "speaks HTTP";
  if (begins("\x16\x03") || begins("\x15\x03")) return "speaks TLS";
  if (begins("SSH-")) return "speaks SSH";
  return absl::StrCat("says something that is no greeting of ours, in ", bytes.size(), " bytes");
}

}  // namespace dsrun
