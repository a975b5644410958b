// Services of a test behind a door on loopback, as those of an agent are, and connections to them
// that have been proven.

#ifndef DSRUN_TESTS_SUPPORT_BEHIND_A_DOOR_H_
#define DSRUN_TESTS_SUPPORT_BEHIND_A_DOOR_H_

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/rpc/dial.h"
#include "common/rpc/door.h"
#include "common/rpc/guest_list.h"
#include "common/rpc/server.h"

namespace dsrun {

class BehindADoor {
 public:
  static constexpr char kKey[] = "a cluster key for tests only";

  // `options`: what is not said here. Nobody is cut for settling late unless it says so.
  explicit BehindADoor(const std::vector<grpc::Service*>& services,
                       Door::Options options = Options()) {
    absl::StatusOr<std::unique_ptr<RpcServer>> server = RpcServer::Start(services);
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    absl::StatusOr<std::unique_ptr<Door>> door =
        Door::Open(std::move(options), server_.get(), &guests);
    EXPECT_TRUE(door.ok()) << door.status();
    door_ = *std::move(door);
  }

  static Door::Options Options() {
    return {.name = "the door of a test",
            .listen = "127.0.0.1:0",
            .cluster_key = kKey,
            .owner = std::nullopt,
            .judge = nullptr,
            .settle_within = absl::Hours(1)};
  }

  Door& door() { return *door_; }
  const std::string& target() const { return door_->address(); }
  Connection Dial() {
    absl::StatusOr<Connection> connection = DialAgent(target(), kKey, absl::Seconds(20));
    EXPECT_TRUE(connection.ok()) << connection.status();
    return *std::move(connection);
  }

  GuestList guests;

 private:
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<Door> door_;  // before the server it hands connections to
};

}  // namespace dsrun

#endif  // DSRUN_TESTS_SUPPORT_BEHIND_A_DOOR_H_
