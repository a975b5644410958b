// The rpc helpers: what is loopback, what is a secret, what crosses the wire.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "absl/strings/cord.h"
#include "common/rpc/channel.h"
#include "common/rpc/constant_time.h"
#include "common/rpc/loopback.h"
#include "common/rpc/secrets.h"
#include "common/rpc/server.h"
#include "common/rpc/status_codec.h"
#include "proto/agent_service.grpc.pb.h"

namespace dsrun {
namespace {

using ::testing::HasSubstr;

TEST(Loopback, OnlyNumericLoopbackCounts) {
  for (const char* yes : {"127.0.0.1", "127.0.0.2", "127.255.0.9", "::1"}) {
    EXPECT_TRUE(IsLoopbackAddress(yes)) << yes;
  }
  for (const char* no : {"0.0.0.0", "10.0.0.1", "128.0.0.1", "::", "fe80::1", "localhost", "",
                         "127.0.0.1.evil.example", "::ffff:10.0.0.1"}) {
    EXPECT_FALSE(IsLoopbackAddress(no)) << no;
  }
}

TEST(Loopback, PeersAsGrpcWritesThem) {
  EXPECT_TRUE(IsLoopbackPeer("ipv4:127.0.0.1:4711"));
  EXPECT_TRUE(IsLoopbackPeer("ipv6:%5B::1%5D:4711"));
  EXPECT_TRUE(IsLoopbackPeer("ipv6:[::1]:4711"));
  EXPECT_TRUE(IsLoopbackPeer("unix:"));
  EXPECT_FALSE(IsLoopbackPeer("ipv4:192.168.1.7:4711"));
  EXPECT_FALSE(IsLoopbackPeer("ipv6:%5B2001:db8::1%5D:4711"));
  EXPECT_FALSE(IsLoopbackPeer(""));
}

TEST(Server, OffLoopback_IsRefusedWithTheReason) {
  const absl::Status status = RpcServer::Start("0.0.0.0:0", {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("off loopback everything is refused until TLS exists"));
  EXPECT_EQ(MakeChannel("10.0.0.1:80").status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(Server, PortInUse_IsUnavailable) {
  proto::Agent::CallbackService service, other;
  const auto first = RpcServer::Start("127.0.0.1:0", {&service});
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_GT((*first)->port(), 0);
  const absl::Status second =
      RpcServer::Start("127.0.0.1:" + std::to_string((*first)->port()), {&other}).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kUnavailable) << second;
}

TEST(SecretsEqual, ComparesWholeSecrets_AndEmptyAdmitsNobody) {
  EXPECT_TRUE(SecretsEqual("abc", "abc"));
  EXPECT_FALSE(SecretsEqual("abc", "abd"));
  EXPECT_FALSE(SecretsEqual("abc", "abcd"));
  EXPECT_FALSE(SecretsEqual("", ""));
}

TEST(Random, DrawsDiffer) {
  EXPECT_EQ(RandomBytes(32).size(), 32u);
  EXPECT_NE(RandomBytes(32), RandomBytes(32));
  EXPECT_NE(RandomIncarnation(), RandomIncarnation());
}

std::string KeyFile(const std::string& content, mode_t mode) {
  std::string path = ::testing::TempDir() + "/keyXXXXXX";
  close(mkstemp(path.data()));
  std::ofstream(path) << content;
  chmod(path.c_str(), mode);
  return path;
}

TEST(ClusterKey, PrivateFile_IsReadWithoutItsNewline) {
  const auto key = ReadClusterKeyFile(KeyFile("0123456789abcdef\n", 0600));
  ASSERT_TRUE(key.ok()) << key.status();
  EXPECT_EQ(*key, "0123456789abcdef");
}

TEST(ClusterKey, ReadableByOthers_IsRefused) {
  for (const mode_t mode : {0640, 0604, 0644, 0666, 0620}) {
    const absl::Status status = ReadClusterKeyFile(KeyFile("0123456789abcdef", mode)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << mode;
    EXPECT_THAT(std::string(status.message()), HasSubstr("expected mode 0600"));
  }
}

TEST(ClusterKey, OfAnotherUser_IsRefused) {
  const std::string path = KeyFile("0123456789abcdef", 0600);
  if (geteuid() != 0) GTEST_SKIP() << "only root can give a file away";
  if (chown(path.c_str(), 12345, 0) != 0) GTEST_SKIP() << "this sandbox knows no other user";
  EXPECT_EQ(ReadClusterKeyFile(path).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(ClusterKey, MissingShortOrNoFile_IsRefused) {
  EXPECT_EQ(ReadClusterKeyFile("/nowhere/key").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ReadClusterKeyFile(KeyFile("short", 0600)).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReadClusterKeyFile(KeyFile(std::string(5000, 'x'), 0600)).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReadClusterKeyFile("/dev/null").status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(StatusCodec, CodeTextAndPayloadsCrossTheWire) {
  absl::Status status = absl::AbortedError("older incarnation");
  status.SetPayload("dsrun/origin", absl::Cord(std::string("rank 3\0binary", 13)));
  status.SetPayload("dsrun/other", absl::Cord(""));
  EXPECT_EQ(FromGrpc(ToGrpc(status)), status);
  EXPECT_TRUE(FromGrpc(ToGrpc(absl::OkStatus())).ok());
}

TEST(StatusCodec, ForeignDetailsAreDropped) {
  const absl::Status status = FromGrpc(grpc::Status(grpc::StatusCode::INTERNAL, "x", "garbage"));
  EXPECT_EQ(status, absl::InternalError("x"));
}

}  // namespace
}  // namespace dsrun
