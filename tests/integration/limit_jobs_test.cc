// Jobs under limits that are too low (ulimit), as a user of its own: root is not bound by the limit
// of processes. Whatever the limit: the job ends within its bound, either well or with one clear
// message that names the limit, and nothing is left behind. Needs root and a user `daemon`.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/integration/job_fixture.h"
#include "tests/integration/training_job.h"

namespace dsrun {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr char kUser[] = "daemon";
constexpr absl::Duration kBound = absl::Seconds(60);

struct Case {
  std::string flag;     // of ulimit
  std::string value;    // of the flag
  std::string limit;    // its name in messages; empty: it must not matter
  bool always = false;  // no job can run under it
};

void PrintTo(const Case& c, std::ostream* out) { *out << "ulimit " << c.flag << " " << c.value; }

// For everybody to start and read. Where it was built may be closed to all but root.
std::string PublicCopy(const std::string& file, const std::string& folder) {
  const std::string copy = folder + "/" + fs::path(file).filename().string();
  fs::copy_file(file, copy);
  fs::permissions(copy, fs::perms(0755));
  return copy;
}

// The programs, once a process: they are large.
const std::string& Programs() {
  static const std::string* const folder = [] {
    static auto* const temporary = new TemporaryFolder("/tmp");
    fs::permissions(temporary->path(), fs::perms(0755));
    for (const std::string& program :
         {DsrunBinary(), DsagentBinary(),
          (fs::path(DsagentBinary()).parent_path() / "dsworker").string(), UserProgram(),
          TextFile()}) {
      PublicCopy(program, temporary->path());
    }
    return new std::string(temporary->path());
  }();
  return *folder;
}

class LimitedJob : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "only root can run jobs as another user";
    const passwd* const entry = getpwnam(kUser);
    if (entry == nullptr) GTEST_SKIP() << "there is no user " << kUser << " here";
    user_ = {.change = true, .uid = entry->pw_uid, .gid = entry->pw_gid, .groups = {}};
    folder_.emplace("/tmp");
    ASSERT_EQ(chown(folder_->path().c_str(), user_.uid, user_.gid), 0);
  }

  Job::Options UnderLimit() const {
    return {.environment = {},
            .folder = folder_->path(),
            .agent_binary = Programs() + "/dsagent",
            .dsrun_binary = Programs() + "/dsrun",
            .limits = GetParam().flag + " " + GetParam().value,
            .user = user_};
  }

  void ExpectEndsWellOrNamesTheLimit(Job& job) const {
    const int code = job.AwaitExit(kBound);
    ASSERT_NE(code, -1) << "it did not end" << job.Words();
    EXPECT_TRUE(job.NothingIsLeft());
    std::cout << "exit code " << code << "\n" << (code == 0 ? "" : job.err());
    if (GetParam().always) {
      EXPECT_NE(code, 0) << job.Words();
    }
    if (code == 0) return;
    EXPECT_NE(GetParam().limit, "") << "this limit must not matter" << job.Words();
    EXPECT_THAT(job.err(), HasSubstr(GetParam().limit));
    EXPECT_THAT(job.err(), HasSubstr("ulimit " + GetParam().flag));
    EXPECT_LT(code, 128) << "ended by a signal" << job.Words();
  }

  ProcessUser user_;
  std::optional<TemporaryFolder> folder_;
};

TEST_P(LimitedJob, OfAProgram_EndsWellOrNamesTheLimit) {
  Job job({"--num_gpus=2", Programs() + "/user_program", "whoami"}, UnderLimit());
  ExpectEndsWellOrNamesTheLimit(job);
}

TEST_P(LimitedJob, OfATraining_EndsWellOrNamesTheLimit) {
  Args args = Train({"--num_gpus=2"}, folder_->path(), {"--train-iters", "6"});
  std::replace(args.begin(), args.end(), TextFile(), Programs() + "/text");
  Job job(args, UnderLimit());
  ExpectEndsWellOrNamesTheLimit(job);
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const int value : {2, 6, 10, 12, 14, 16, 18, 20, 22, 25, 30, 40, 50, 60, 80, 120}) {
    cases.push_back({"-u", absl::StrCat(value), "RLIMIT_NPROC", value < 12});
  }
  for (const int value : {12, 16, 24, 32, 40, 48, 64, 100}) {
    cases.push_back({"-n", absl::StrCat(value), "RLIMIT_NOFILE", value < 16});
  }
  // Not 0: what dsrun says goes into a file here.
  for (const char* value : {"8", "64", "400", "100000"}) {
    cases.push_back({"-f", value, "RLIMIT_FSIZE"});
  }
  for (const char* value : {"40000", "60000", "70000", "100000", "200000", "600000", "4000000"}) {
    cases.push_back({"-v", value, "RLIMIT_AS"});
  }
  cases.push_back({"-s", "128", "RLIMIT_STACK", true});
  for (const char* value : {"1024", "8192", "1000000", "unlimited"})
    cases.push_back({"-s", value, ""});
  for (const char* value : {"0", "1", "unlimited"}) cases.push_back({"-c", value, ""});
  return cases;
}

INSTANTIATE_TEST_SUITE_P(All, LimitedJob, ::testing::ValuesIn(Cases()), [](const auto& info) {
  return absl::StrCat(info.param.flag.substr(1), "_", info.param.value);
});

}  // namespace
}  // namespace dsrun
