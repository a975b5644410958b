// Who was served by a root agent before, and who runs beside its ranks, against the workers' door.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <pwd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/clock.h"
#include "common/rpc/dial.h"
#include "common/rpc/sockets.h"
#include "tests/agent/agent_client.h"
#include "tests/agent/dsagent_process.h"
#include "tests/attacks/attacker.h"
#include "tests/integration/job_fixture.h"

namespace dsrun {
namespace {

namespace fs = std::filesystem;
using agent::AgentClient;
using agent::DsagentProcess;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// Users that a job can name: the system's own, which run nothing here.
constexpr char kFormer[] = "daemon";
constexpr char kNext[] = "bin";

class WorkerDoorAttack : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "NOT SHOWN: only root can become another user";
    if (getpwnam(kFormer) == nullptr || getpwnam(kNext) == nullptr) {
      GTEST_SKIP() << "NOT SHOWN: there is no user " << kFormer << " or " << kNext << " here";
    }
    former_ = getpwnam(kFormer)->pw_uid;
    next_ = getpwnam(kNext)->pw_uid;
    folder_.emplace("/tmp");
    fs::permissions(folder_->path(), fs::perms(0755));
    worker_ = folder_->path() + "/worker";
    fs::copy_file(agent::BuiltFile("tests/attacks/lying_worker"), worker_);
    fs::permissions(worker_, fs::perms(0755));
  }
  // A training job of two ranks that run as `user`.
  void Start(AgentClient& client, const std::string& id, const std::string& user) {
    const std::string save = folder_->path() + "/save-" + id;
    fs::create_directory(save);
    ASSERT_EQ(chown(save.c_str(), getpwnam(user.c_str())->pw_uid, static_cast<gid_t>(-1)), 0);
    proto::CoordinatorMessage open = AgentClient::Open(id, folder_->path() + "/run-" + id, {}, 2);
    open.mutable_open()->mutable_job()->set_run_as_user(user);
    open.mutable_open()->mutable_job()->mutable_train()->set_save_dir(save);
    client.Send(open);
    client.Send(AgentClient::Begin(id, 1, {0, 1}));
    EXPECT_EQ(client.AwaitLine("truth: "), "truth: OK");
  }
  static void End(AgentClient& client, const std::string& id) {
    proto::CoordinatorMessage end = AgentClient::Message(id, 1);
    end.mutable_end_job();
    client.Send(end);
    EXPECT_TRUE(client.AwaitEnd().ok());
  }

  uid_t former_ = 0;
  uid_t next_ = 0;
  std::optional<TemporaryFolder> folder_;
  std::string worker_;
};

std::string Errno(bool done) { return done ? "done" : strerror(errno); }

// Everything that could make the agent's folder, or a job's, one's own. Each has to fail.
std::string Meddle(const std::string& folder, const std::string& job) {
  const std::string socket = job + "/worker.sock";
  const std::string mine = job + "/mine";
  std::string tried;
  const auto add = [&](const char* what, bool done) {
    absl::StrAppend(&tried, what, ": ", Errno(done), "\n");
  };
  for (const std::string& each : {folder, job}) {
    add("list", open(each.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC) >= 0);
    add("make", mkdir((each + "/mine").c_str(), 0777) == 0);
    add("open up", chmod(each.c_str(), 0777) == 0);
    add("take", chown(each.c_str(), geteuid(), getegid()) == 0);
  }
  add("rename the folder", rename(job.c_str(), (folder + "/old").c_str()) == 0);
  add("rename the socket", rename(socket.c_str(), mine.c_str()) == 0);
  add("remove the socket", unlink(socket.c_str()) == 0);
  add("link it", link(socket.c_str(), (folder + "/linked").c_str()) == 0);
  add("listen beside it", ListenOn("unix:" + mine).ok());
  return tried;
}

void ExpectAllRefused(const std::string& tried) {
  EXPECT_THAT(tried, HasSubstr("remove the socket: Permission denied\n"));
  EXPECT_EQ(tried.find("done"), std::string::npos) << tried;
}

struct stat StatOf(const std::string& path) {
  struct stat info = {};
  EXPECT_EQ(stat(path.c_str(), &info), 0) << path << ": " << strerror(errno);
  return info;
}

TEST_F(WorkerDoorAttack, FormerUserOfARootAgent_TakesNothingOfTheNextJob) {
  DsagentProcess agent({"--worker-binary=" + worker_});
  const std::string folder = agent.socket_dir();
  {
    AgentClient client(agent.port());
    Start(client, "first", kFormer);
    // Also while it is served: the folders are not its.
    ExpectAllRefused(AsUser(former_, [&] { return Meddle(folder, folder + "/job-1"); }));
    End(client, "first");
  }
  EXPECT_FALSE(fs::exists(folder + "/job-1"));
  AgentClient client(agent.port());
  Start(client, "next", kNext);
  const std::string job = folder + "/job-2";
  ExpectAllRefused(AsUser(former_, [&] { return Meddle(folder, job); }));
  EXPECT_THAT(AsUser(former_,
                     [&] {
                       return DialHost(job + "/worker.sock", 0, agent.agent_pid(),
                                       absl::Seconds(20))
                           .status()
                           .ToString();
                     }),
              HasSubstr("Permission denied"));
  for (const std::string& each : {folder, job}) {
    EXPECT_EQ(StatOf(each).st_uid, 0u) << each;
    EXPECT_EQ(StatOf(each).st_mode & 07777, 0711u) << each;
  }
  EXPECT_EQ(StatOf(job + "/worker.sock").st_uid, next_);
  EXPECT_EQ(StatOf(job + "/worker.sock").st_mode & 07777, 0600u);
  End(client, "next");
  EXPECT_TRUE(fs::is_empty(folder));
}

TEST_F(WorkerDoorAttack, ProcessOfTheRanksUserThatIsNoRank_IsRefused) {
  DsagentProcess agent({"--worker-binary=" + worker_});
  AgentClient client(agent.port());
  Start(client, "j", kFormer);
  const std::string socket = agent.socket_dir() + "/job-1/worker.sock";
  const auto call = [&](uid_t uid) {
    return AsUser(uid, [&] {
      return DialHost(socket, 0, agent.agent_pid(), absl::Seconds(20)).status().ToString();
    });
  };
  EXPECT_THAT(call(former_), StartsWith("PERMISSION_DENIED: by the kernel's word"));
  // Nor is one of a user who may open every file.
  EXPECT_THAT(call(0), StartsWith("PERMISSION_DENIED: by the kernel's word"));
  End(client, "j");
}

TEST_F(WorkerDoorAttack, RankThatClaimsItsSiblingsSlot_IsRefused) {
  DsagentProcess agent({"--worker-binary=" + worker_});
  AgentClient client(agent.port());
  Start(client, "j", kFormer);
  for (const int slot : {0, 1}) {
    const auto lie = client.Await([&](const proto::AgentMessage& m) {
      return m.has_log_chunk() && m.log_chunk().slot() == slot &&
             m.log_chunk().text().find("lie: ") != std::string::npos;
    });
    ASSERT_TRUE(lie.has_value());
    EXPECT_THAT(lie->log_chunk().text(),
                HasSubstr(absl::StrCat("expected the process of slot ", 1 - slot)));
  }
  End(client, "j");
}

// A worker tells its token to nobody but the agent.
TEST_F(WorkerDoorAttack, ListenerInTheAgentsPlace_IsToldNothing) {
  const std::string path = folder_->path() + "/worker.sock";
  fs::permissions(folder_->path(), fs::perms(0777));
  Attacker impostor(former_, [&](int out, int stop) {
    const absl::StatusOr<ListeningSocket> listening = ListenOn("unix:" + path);
    chmod(path.c_str(), 0666);
    SayLine(out, listening.status().ToString());
    AwaitStop(stop);
    fcntl(listening->fd.get(), F_SETFL, O_NONBLOCK);
    const Descriptor caller(accept(listening->fd.get(), nullptr, nullptr));
    char byte = 0;
    const bool told = caller.get() >= 0 && read(caller.get(), &byte, 1) > 0;
    SayLine(out, told ? "told" : "not told");
  });
  EXPECT_EQ(impostor.Line(), "OK");
  const absl::Status status = DialHost(path, geteuid(), getpid(), absl::Seconds(20)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied) << status;
  EXPECT_EQ(impostor.Finish(), "not told\n");
}

}  // namespace
}  // namespace dsrun
