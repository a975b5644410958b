// Ranks that run as another user than the agent, which is root: that user's rights and no others,
// logs, checkpoints, and what is said when it cannot be. Needs root and a user `daemon`.

#include <gmock/gmock.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <pwd.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "tests/integration/job_fixture.h"
#include "tests/integration/private_mounts.h"
#include "tests/integration/training_job.h"

namespace dsrun {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kUser[] = "daemon";
constexpr gid_t kExtraGroup = 54321;    // that the user is in
constexpr gid_t kForeignGroup = 54322;  // that this process is in, and the user is not

void OpenToAll(const std::string& path) { fs::permissions(path, fs::perms(0755)); }

// A copy that everybody may start. Where it was built may be closed to all but root.
std::string CopyOf(const std::string& program, const std::string& folder) {
  const std::string copy = folder + "/" + fs::path(program).filename().string();
  fs::copy_file(program, copy);
  OpenToAll(copy);
  return copy;
}

class UserJob : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "only root can run ranks as another user";
    const passwd* const entry = getpwnam(kUser);
    if (entry == nullptr) GTEST_SKIP() << "there is no user " << kUser << " here";
    uid_ = entry->pw_uid;
    gid_ = entry->pw_gid;
    folder_.emplace("/tmp");  // a folder that every user may enter
    OpenToAll(folder_->path());
    const std::string programs = folder_->path() + "/bin";
    fs::create_directory(programs);
    OpenToAll(programs);
    agent_ = CopyOf(DsagentBinary(), programs);
    worker_ = CopyOf(fs::path(DsagentBinary()).parent_path() / "dsworker", programs);
    program_ = CopyOf(UserProgram(), programs);
    std::ofstream(folder_->path() + "/hosts") << kUser << "@127.0.0.1 slots=2\n";
  }

  std::string Hosts() const { return folder_->path() + "/hosts"; }
  // The text, too, lies where the user can read it.
  Args TrainAsUser() const {
    Args args = Train({"--hostfile", Hosts()}, folder_->path(), Long());
    std::replace(args.begin(), args.end(), TextFile(), CopyOf(TextFile(), folder_->path()));
    return args;
  }
  Job::Options InFolder() const {
    return {.environment = {}, .folder = folder_->path(), .agent_binary = agent_};
  }

  uid_t uid_ = 0;
  gid_t gid_ = 0;
  std::optional<TemporaryFolder> folder_;
  std::string agent_;
  std::string worker_;
  std::string program_;
};

// What the last screen says, without its line breaks.
std::string InOneLine(const std::string& text) {
  std::stringstream words(text);
  std::string line;
  for (std::string word; words >> word;) line += word + " ";
  return line;
}

// The system's groups, and one more that the user is in.
absl::Status AddGroup(const std::string& folder) {
  const std::string path = folder + "/group";
  std::ofstream(path) << ReadWholeFile("/etc/group") << "extra:x:" << kExtraGroup << ":" << kUser
                      << "\n";
  OpenToAll(path);
  return ShowInstead("/etc/group", path);
}

TEST_F(UserJob, Ranks_HaveTheUsersIdsAndGroupsAndNoRightsOfRoot) {
  const absl::Status added = AddGroup(folder_->path());
  if (!added.ok()) GTEST_SKIP() << added;
  // Whatever groups dsrun was started with must not reach the ranks.
  const gid_t ours[] = {0, kForeignGroup};
  ASSERT_EQ(setgroups(2, ours), 0);
  Job job({"--hostfile", Hosts(), program_, "whoami"}, InFolder());
  ASSERT_EQ(setgroups(0, nullptr), 0);
  ASSERT_EQ(job.AwaitExit(), 0) << job.Words();
  const std::string uid = " " + std::to_string(uid_);
  const std::string gid = " " + std::to_string(gid_);
  for (const char* rank : {"0", "1"}) {
    const std::string line = std::string("rank ") + rank + " is uid" + uid + uid + uid + " gid" +
                             gid + gid + gid + " groups" + gid + " " + std::to_string(kExtraGroup) +
                             " capabilities 0000000000000000\n";
    EXPECT_THAT(job.out(), HasSubstr(line));
    // Logs are the agent's: the user needs no right to the run folder.
    EXPECT_THAT(ReadWholeFile(job.run_dir() + "/logs/127.0.0.1/rank-" + rank + ".gen-1.log"),
                HasSubstr(line));
  }
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST_F(UserJob, FileOfRoot_CannotBeReadByARank) {
  const std::string secret = folder_->path() + "/secret";
  std::ofstream(secret) << "of root";
  fs::permissions(secret, fs::perms(0600));
  Job job({"--hostfile", Hosts(), program_, "read", secret}, InFolder());
  ASSERT_EQ(job.AwaitExit(), 0) << job.Words();
  EXPECT_THAT(job.out(), HasSubstr("rank 0 may not read"));
}

TEST_F(UserJob, Training_SavesAsTheUserAndGoesOnAfterAKill) {
  const std::string save = folder_->path() + "/save";  // dsrun makes it, and gives it away
  Job job(TrainAsUser(), InFolder());
  ASSERT_TRUE(AwaitStep(job, folder_->path(), kSaveInterval + 5)) << job.Words();
  ASSERT_TRUE(SignalWorker(job, 1, SIGKILL));
  ExpectWentOn(job, *folder_);
  for (const auto& entry : fs::directory_iterator(save)) {
    struct stat info = {};
    ASSERT_EQ(lstat(entry.path().c_str(), &info), 0);
    EXPECT_EQ(info.st_uid, uid_) << entry.path();
    EXPECT_EQ(info.st_gid, gid_) << entry.path();
  }
}

TEST_F(UserJob, SaveFolderOfRoot_IsRefusedBeforeAnyRankStarts) {
  const std::string save = folder_->path() + "/save";
  fs::create_directory(save);
  OpenToAll(save);
  Job job(TrainAsUser(), InFolder());
  EXPECT_EQ(job.AwaitExit(), 92) << job.Words();
  EXPECT_THAT(InOneLine(job.err()),
              HasSubstr("expected a save folder that \"daemon\" may write to on node 127.0.0.1"));
  EXPECT_THAT(job.err(), HasSubstr(save));
  EXPECT_TRUE(fs::is_empty(save));
  EXPECT_TRUE(job.NothingIsLeft());
}

TEST_F(UserJob, WorkerProgramOfRoot_IsRefusedBeforeAnyRankStarts) {
  fs::permissions(worker_, fs::perms(0700));
  Job job(TrainAsUser(), InFolder());
  EXPECT_EQ(job.AwaitExit(), 92) << job.Words();
  EXPECT_THAT(InOneLine(job.err()),
              HasSubstr("expected a dsworker that \"daemon\" may start, but"));
  EXPECT_THAT(job.err(), HasSubstr(worker_));
  EXPECT_TRUE(job.NothingIsLeft());
}

// As in a container that is told a number: no name, no home folder.
TEST_F(UserJob, IdWithoutAPasswdEntry_RunsJobsAsItIs) {
  constexpr uid_t kNobodys = 54323;
  ASSERT_EQ(getpwuid(kNobodys), nullptr);
  Job::Options options{.environment = {"HOME=/"}, .agent_binary = agent_};
  options.dsrun_binary = CopyOf(DsrunBinary(), folder_->path() + "/bin");
  options.user = {.change = true, .uid = kNobodys, .gid = kNobodys, .groups = {}};
  const auto own_folder = [&](const std::string& name) {
    const std::string folder = folder_->path() + "/" + name;
    fs::create_directory(folder);
    EXPECT_EQ(chown(folder.c_str(), kNobodys, kNobodys), 0);
    return folder;
  };
  options.folder = own_folder("program");
  Job program({"--num_gpus=2", program_, "whoami"}, options);
  EXPECT_EQ(program.AwaitExit(), 0) << program.Words();
  EXPECT_THAT(program.out(), HasSubstr(std::to_string(kNobodys)));
  EXPECT_TRUE(program.NothingIsLeft());
  options.folder = own_folder("training");
  Args args = Train({"--num_gpus=2"}, options.folder, {"--train-iters", "6"});
  std::replace(args.begin(), args.end(), TextFile(), CopyOf(TextFile(), folder_->path()));
  Job training(args, options);
  EXPECT_EQ(training.AwaitExit(), 0) << training.Words();
  EXPECT_TRUE(training.NothingIsLeft());
}

TEST_F(UserJob, UnknownUser_IsOneErrorAndNothingStarts) {
  std::ofstream(Hosts()) << "no-such-user@127.0.0.1 slots=2\n";
  Job job({"--hostfile", Hosts(), program_, "whoami"}, InFolder());
  EXPECT_EQ(job.AwaitExit(), 92) << job.Words();
  EXPECT_THAT(InOneLine(job.err()),
              HasSubstr("expected a user of this node, got \"no-such-user\""));
  EXPECT_THAT(job.out(), Not(HasSubstr("is uid")));
  EXPECT_TRUE(job.NothingIsLeft());
}

}  // namespace
}  // namespace dsrun
