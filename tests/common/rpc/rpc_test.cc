// The rpc helpers: what is loopback, what is a secret, what crosses the wire.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "absl/strings/cord.h"
#include "common/rpc/constant_time.h"
#include "common/rpc/loopback.h"
#include "common/rpc/secrets.h"
#include "common/rpc/sockets.h"
#include "common/rpc/status_codec.h"

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

TEST(Sockets, OffLoopback_IsRefusedWithTheReason) {
  const absl::Status status = ListenOn("0.0.0.0:0").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("off loopback everything is refused until TLS exists"));
}

TEST(Sockets, PortOrPathInUse_IsUnavailable) {
  const auto first = ListenOn("127.0.0.1:0");
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_GT(first->port, 0);
  EXPECT_EQ(first->address, "127.0.0.1:" + std::to_string(first->port));
  EXPECT_EQ(ListenOn(first->address).status().code(), absl::StatusCode::kUnavailable);
  std::string folder = "/tmp/sockets-XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const std::string path = "unix:" + folder + "/s";
  const auto second = ListenOn(path);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->address, path);
  const absl::Status again = ListenOn(path).status();
  EXPECT_EQ(again.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(again.message()), HasSubstr("look, and remove it"));
  unlink((folder + "/s").c_str());
  rmdir(folder.c_str());
}

TEST(Sockets, WhatIsNoAddress_IsInvalid) {
  for (const std::string& target :
       {std::string("127.0.0.1"), std::string("127.0.0.1:x"), std::string("127.0.0.1:70000"),
        std::string("unix:"), "unix:/" + std::string(200, 'x')}) {
    EXPECT_EQ(ListenOn(target).status().code(), absl::StatusCode::kInvalidArgument) << target;
  }
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
