// Real jobs on storage that fails while they restart: read errors injected into the system calls of
// a real worker (strace), a file system that is not mounted any more, one without hard links, and
// one that shows new names late. No step is lost that was committed; what cannot be read ends the
// attempt, and nothing is begun anew.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "common/base/file_system.h"
#include "common/format/checkpoint_reader.h"
#include "common/format/save_folder.h"
#include "tests/integration/fuse_folder.h"
#include "tests/integration/job_fixture.h"
#include "tests/integration/private_mounts.h"
#include "tests/integration/training_job.h"
#include "tests/worker/checkpoint/training_state.h"
#include "worker/checkpoint/prune.h"

namespace dsrun {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// "00000080" of a manifest's name.
std::string StepOf(const std::string& manifest) { return manifest.substr(14, 8); }

std::vector<std::string> NamesIn(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    names.push_back(entry.path().filename());
  }
  return names;
}

class StorageJob : public ::testing::Test {
 protected:
  std::string save() const { return folder_.path() + "/save"; }

  // Stops a job at rest: no save is under way, and none can begin. Returns the newest manifest.
  std::string StopAtRest(const Job& job) {
    EXPECT_TRUE(AwaitStep(job, folder_.path(), 2 * kSaveInterval + 5)) << job.Words();
    stopped_ = WorkerOf(job, 1);  // nobody finishes a step or a save without it
    EXPECT_NE(stopped_, 0) << job.Words();
    if (stopped_ != 0) kill(stopped_, SIGSTOP);
    Eventually([&] { return !CheckpointIsBeingWritten(save()); }, absl::Milliseconds(300));
    const std::string newest = NewestManifest(save());
    EXPECT_TRUE(job.AwaitError(newest)) << "dsrun does not know of it" << job.Words();
    return newest;
  }
  // A new generation begins; rank 0 is a new process if `rank_zero`.
  void Kill(const Job& job, bool rank_zero) {
    if (rank_zero) SignalWorker(job, 0, SIGKILL);
    if (stopped_ != 0) kill(stopped_, SIGKILL);
  }

  TemporaryFolder folder_;
  pid_t stopped_ = 0;
};

// Why strace can inject nothing here; empty: it can.
std::string NoInjection() {
  if (std::system("strace -o /dev/null -e trace=pread64 -e inject=pread64:error=EIO:when=9999 "
                  "true 2>/dev/null") == 0) {
    return "";
  }
  return "strace is not installed or ptrace is not permitted here: no read error can be injected "
         "into a real worker";
}

// A folder with dsagent and, under dsworker's name, a script that starts the real one under strace
// as soon as Arm was called. Its process is the worker itself: strace is a grandchild (-D).
class TracedPrograms {
 public:
  explicit TracedPrograms(const std::string& folder) : folder_(folder) {
    const fs::path real = DsagentBinary();
    fs::create_directories(folder_ + "/real");
    fs::copy_file(real, folder_ + "/dsagent");
    fs::copy_file(real.parent_path() / "dsworker", folder_ + "/real/dsworker");
    std::ofstream script(folder_ + "/dsworker");
    script << "#!/bin/sh\n"
           << "[ -e '" << folder_ << "/inject' ] && . '" << folder_ << "/inject'\n"
           << "exec '" << folder_ << "/real/dsworker' \"$@\"\n";
    script.close();
    fs::permissions(folder_ + "/dsworker", fs::perms(0755));
  }
  std::string agent() const { return folder_ + "/dsagent"; }

  // Workers that start from now on: `inject`, on the files that are in `save` now.
  void Arm(const std::string& save, const std::string& inject) {
    std::ofstream script(folder_ + "/arming");
    script << "exec strace -D -f -qq -o '" << folder_ << "/trace.'$$ -e trace=pread64,openat "
           << inject;
    for (const std::string& name : NamesIn(save)) script << " -P '" << save << "/" << name << "'";
    script << " '" << folder_ << "/real/dsworker' \"$@\"\n";
    script.close();
    fs::rename(folder_ + "/arming", folder_ + "/inject");
  }
  // System calls that failed on purpose so far.
  int64_t Injected() const {
    int64_t injected = 0;
    for (const std::string& name : NamesIn(folder_)) {
      if (!name.starts_with("trace.")) continue;
      std::ifstream lines(folder_ + "/" + name);
      for (std::string line; std::getline(lines, line);) {
        injected += line.find("(INJECTED)") == std::string::npos ? 0 : 1;
      }
    }
    return injected;
  }

 private:
  const std::string folder_;
};

TEST_F(StorageJob, ThreeReadErrorsInARestart_LoseNoStep) {
  if (const std::string why = NoInjection(); !why.empty()) GTEST_SKIP() << why;
  TracedPrograms programs(folder_.path() + "/programs");
  Job::Options options;
  options.agent_binary = programs.agent();
  Job job(Train({"--num_gpus=2"}, folder_.path(), Long()), options);
  const std::string newest = StopAtRest(job);
  programs.Arm(save(), "-e inject=pread64:error=EIO:when=1..3");
  Kill(job, /*rank_zero=*/true);
  ExpectWentOn(job, folder_);
  EXPECT_GE(programs.Injected(), 3);
  EXPECT_EQ(job.ReportJson()["incidents"][0]["resumed_from_step"], std::stoll(StepOf(newest)));
  EXPECT_THAT(job.err(), Not(HasSubstr("LOST")));
}

TEST_F(StorageJob, InterruptedCallsInARestart_AreNoErrors) {
  if (const std::string why = NoInjection(); !why.empty()) GTEST_SKIP() << why;
  TracedPrograms programs(folder_.path() + "/programs");
  Job::Options options;
  options.agent_binary = programs.agent();
  Job job(Train({"--num_gpus=2"}, folder_.path(), Long()), options);
  const std::string newest = StopAtRest(job);
  programs.Arm(save(), "-e inject=pread64,openat:error=EINTR:when=1+2");
  Kill(job, /*rank_zero=*/true);
  ExpectWentOn(job, folder_);
  EXPECT_GE(programs.Injected(), 10);
  EXPECT_EQ(job.ReportJson()["restarts"], 1) << job.Words();
  EXPECT_EQ(job.ReportJson()["incidents"][0]["resumed_from_step"], std::stoll(StepOf(newest)));
}

TEST_F(StorageJob, ReadErrorsThatStay_EndTheJobWithEverythingKept) {
  if (const std::string why = NoInjection(); !why.empty()) GTEST_SKIP() << why;
  TracedPrograms programs(folder_.path() + "/programs");
  Job::Options options;
  options.agent_binary = programs.agent();
  std::string newest;
  {
    Job job(Train({"--num_gpus=2", "--join-timeout", "9s", "--max-restarts-without-progress", "1"},
                  folder_.path(), Long()),
            options);
    newest = StopAtRest(job);
    programs.Arm(save(), "-e inject=pread64:error=EIO:when=1+");
    Kill(job, /*rank_zero=*/true);
    EXPECT_EQ(job.AwaitExit(), 93) << job.Words();
    EXPECT_THAT(job.err(),
                AllOf(HasSubstr("this job has committed step " +
                                std::to_string(std::stoll(StepOf(newest)))),
                      HasSubstr(newest), HasSubstr("Input/output error"),
                      HasSubstr("go on with --load " + save()), HasSubstr("--allow-rewind")));
    EXPECT_THAT(job.err(), Not(HasSubstr("LOST")));
    EXPECT_TRUE(job.NothingIsLeft());
  }
  EXPECT_EQ(NewestManifest(save()), newest) << "nothing was begun";
  Job later(Train({"--num_gpus=3"}, folder_.path(), Long({"--load", save()})));
  ASSERT_EQ(later.AwaitExit(), 0) << later.Words();
  EXPECT_EQ(ContentHash(save()), UndisturbedHash());
}

// A folder that is another file system's, which goes away and leaves an empty folder.
class Mounted {
 public:
  static absl::StatusOr<std::unique_ptr<Mounted>> At(const std::string& folder) {
    if (absl::Status own = UseOwnMounts(); !own.ok()) return own;
    std::unique_ptr<Mounted> mounted(new Mounted(folder));
    fs::create_directories(folder);
    fs::create_directories(mounted->kept_);
    if (absl::Status shown = mounted->Show(); !shown.ok()) return shown;
    return mounted;
  }
  ~Mounted() { Hide(); }
  absl::Status Show() { return ShowInstead(folder_, kept_); }
  void Hide() { umount2(folder_.c_str(), MNT_DETACH); }

 private:
  explicit Mounted(const std::string& folder) : folder_(folder), kept_(folder + ".kept") {}
  const std::string folder_;
  const std::string kept_;
};

TEST_F(StorageJob, MountThatIsMissingAndComesBack_IsWaitedFor) {
  auto mounted = Mounted::At(save());
  if (!mounted.ok()) GTEST_SKIP() << mounted.status();
  Job job(Train({"--num_gpus=2"}, folder_.path(), Long()));
  const std::string newest = StopAtRest(job);
  const std::vector<pid_t> before = job.Find(Role::kWorker);
  (*mounted)->Hide();
  ASSERT_THAT(NamesIn(save()), IsEmpty());
  Kill(job, /*rank_zero=*/true);
  const auto restarted = [&] {
    const std::vector<pid_t> now = job.Find(Role::kWorker);
    return std::count_if(now.begin(), now.end(), [&](pid_t pid) {
             return std::find(before.begin(), before.end(), pid) == before.end();
           }) == 2;
  };
  ASSERT_TRUE(Eventually([&] { return restarted() || job.Ended(); })) << job.Words();
  // They would start at step 0 within milliseconds, if they did.
  ASSERT_TRUE(job.AwaitError("generation 2")) << job.Words();
  ASSERT_TRUE((*mounted)->Show().ok());
  ExpectWentOn(job, folder_);
  EXPECT_EQ(job.ReportJson()["restarts"], 1) << job.Words();
  EXPECT_EQ(job.ReportJson()["incidents"][0]["resumed_from_step"], std::stoll(StepOf(newest)));
}

TEST_F(StorageJob, MountThatStaysMissing_EndsTheJobAndNothingIsBegun) {
  auto mounted = Mounted::At(save());
  if (!mounted.ok()) GTEST_SKIP() << mounted.status();
  std::string newest;
  {
    Job job(Train({"--num_gpus=2", "--join-timeout", "9s", "--max-restarts-without-progress", "1"},
                  folder_.path(), Long()));
    newest = StopAtRest(job);
    (*mounted)->Hide();
    Kill(job, /*rank_zero=*/true);
    EXPECT_EQ(job.AwaitExit(), 93) << job.Words();
    EXPECT_THAT(job.err(),
                AllOf(HasSubstr(newest), HasSubstr("in " + save() + " now"),
                      HasSubstr("not proven to be damaged"), HasSubstr("--allow-rewind")));
  }
  EXPECT_THAT(NamesIn(save()), IsEmpty()) << "nothing was begun";
  ASSERT_TRUE((*mounted)->Show().ok());
  EXPECT_EQ(NewestManifest(save()), newest);
  Job later(Train({"--num_gpus=2"}, folder_.path(), Long({"--load", save()})));
  ASSERT_EQ(later.AwaitExit(), 0) << later.Words();
  EXPECT_EQ(ContentHash(save()), UndisturbedHash());
}

// It goes away while the ranks train, and the folder beneath is there for whoever writes.
TEST_F(StorageJob, MountThatVanishesWhileTraining_TakesNothingBeneathAndIsUsedAgain) {
  auto mounted = Mounted::At(save());
  if (!mounted.ok()) GTEST_SKIP() << mounted.status();
  Job job(Train({"--num_gpus=2"}, folder_.path(), Long()));
  ASSERT_TRUE(AwaitStep(job, folder_.path(), kSaveInterval + 1)) << job.Words();
  (*mounted)->Hide();
  ASSERT_TRUE(job.AwaitError("is not the folder that this job began with")) << job.Words();
  for (const std::string& name : NamesIn(save())) {
    EXPECT_THAT(name, Not(HasSubstr(".safetensors"))) << "on the disk beneath";
  }
  ASSERT_TRUE((*mounted)->Show().ok());
  ASSERT_EQ(job.AwaitExit(), 0) << job.Words();
  EXPECT_THAT(job.err(),
              AnyOf(HasSubstr("could not be written"), HasSubstr("COULD NOT BE WRITTEN")));
  EXPECT_EQ(job.ReportJson()["restarts"], 0) << job.Words();
  EXPECT_EQ(ContentHash(save()), UndisturbedHash());
}

// A purge of old files takes the marker alone; the folder is healthy, and later saves work.
TEST_F(StorageJob, MarkerThatIsRemoved_IsPutBackAndSavesGoOn) {
  Job job(Train({"--num_gpus=2"}, folder_.path(), {"--train-iters", "1000000"}));
  ASSERT_TRUE(AwaitStep(job, folder_.path(), 2)) << job.Words();
  std::string marker;
  for (const std::string& name : NamesIn(save())) {
    if (JobOfSaveFolderMarker(name)) marker = save() + "/" + name;
  }
  ASSERT_TRUE(fs::remove(marker)) << job.Words();
  ASSERT_TRUE(job.AwaitError("it was put back")) << job.Words();
  EXPECT_TRUE(fs::exists(marker));
  kill(job.pid(), SIGTERM);  // saves, and then ends
  EXPECT_EQ(job.AwaitExit(), 96) << job.Words();
  EXPECT_NE(NewestManifest(save()), "");
  EXPECT_FALSE(fs::exists(marker)) << "the job is over";
}

// As if the rank had committed it, and its agent been killed before it passed that on.
TEST_F(StorageJob, CommitThatNobodyReported_IsNamedAtTheEnd) {
  Job job(
      Train({"--num_gpus=2"}, folder_.path(),
            {"--train-iters", "1000000", "--save-interval", "0", "--worker-silent-after", "50s"}));
  ASSERT_TRUE(AwaitStep(job, folder_.path(), 2)) << job.Words();
  ASSERT_TRUE(SignalWorker(job, 1, SIGSTOP));
  worker::SaveOptions options;
  options.step = Step(2);
  options.width = 2;
  options.has_begun = true;
  for (const std::string& name : NamesIn(save())) {
    options.job_id = JobOfSaveFolderMarker(name).value_or(options.job_id);
  }
  const absl::StatusOr<std::string> manifest =
      worker::Save(FileSystem::Real(), save(), worker::TrainingState(), options);
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  job.Signal(SIGINT);
  ASSERT_TRUE(job.AwaitError("once more stops now")) << job.Words();
  ASSERT_TRUE(job.SignalOnceMore(SIGINT)) << job.Words();
  EXPECT_EQ(job.AwaitExit(), 96) << job.Words();
  EXPECT_THAT(job.err(), AllOf(HasSubstr(*manifest + " (step 2; it is there, but its commit was "),
                               HasSubstr("the same command and --load " + save())));
  EXPECT_EQ(job.ReportJson()["checkpoint"], *manifest);
  EXPECT_EQ(job.ReportJson()["checkpoint_reported"], false);
}

TEST_F(StorageJob, MissingMountWithAllowRewind_BeginsAndSaysWhatIsThrownAway) {
  auto mounted = Mounted::At(save());
  if (!mounted.ok()) GTEST_SKIP() << mounted.status();
  Job job(
      Train({"--num_gpus=2", "--join-timeout", "6s"}, folder_.path(), Long({"--allow-rewind"})));
  const int64_t step = std::stoll(StepOf(StopAtRest(job)));
  (*mounted)->Hide();
  Kill(job, /*rank_zero=*/true);
  ExpectWentOn(job, folder_);
  EXPECT_THAT(job.err(), HasSubstr(std::to_string(step) + " steps THROWN AWAY"));
}

// ---- File systems as a network has them

TEST_F(StorageJob, NoHardLinksAndNoExclusiveRename_SavesAndGoesOn) {
  auto fuse = FuseFolder::Mount(save(), {});
  if (!fuse.ok()) GTEST_SKIP() << fuse.status();
  Job job(Train({"--num_gpus=2"}, folder_.path(), Long()));
  ASSERT_TRUE(AwaitStep(job, folder_.path(), 2 * kSaveInterval + 5)) << job.Words();
  ASSERT_TRUE(SignalWorker(job, 0, SIGKILL));
  ExpectWentOn(job, folder_);
  EXPECT_GE((*fuse)->refused(), 4) << "two ways of at least two commits; others may be left out";
  EXPECT_THAT(job.err(), Not(HasSubstr("COULD NOT BE WRITTEN")));
}

TEST_F(StorageJob, NamesThatShowLate_AreWaitedFor) {
  FuseFolder::Options options;
  options.hard_links = true;
  options.hidden_looks = 2;
  auto fuse = FuseFolder::Mount(save(), options);
  if (!fuse.ok()) GTEST_SKIP() << fuse.status();
  Job job(Train({"--num_gpus=2"}, folder_.path(), Long()));
  const std::string newest = StopAtRest(job);
  Kill(job, /*rank_zero=*/true);
  ASSERT_EQ(job.AwaitExit(), 0) << job.Words();
  EXPECT_GT((*fuse)->hidden(), 10);
  EXPECT_THAT(job.err(), Not(HasSubstr("COULD NOT BE WRITTEN")));
  EXPECT_THAT(job.err(), Not(HasSubstr("LOST")));
  (*fuse)->ShowAll();
  EXPECT_EQ(ContentHash(save()), UndisturbedHash());
}

// Real system calls on a server that answers EEXIST and ENOENT to what it has done.
TEST_F(StorageJob, RepliesThatWereLost_AreNoErrors) {
  FuseFolder::Options options;
  options.hard_links = true;
  options.answers_twice = true;
  for (const bool exclusive_rename : {false, true}) {
    options.exclusive_rename = exclusive_rename;
    const std::string folder = save() + (exclusive_rename ? "1" : "0");
    auto fuse = FuseFolder::Mount(folder, options);
    if (!fuse.ok()) GTEST_SKIP() << fuse.status();
    FileSystem& real = FileSystem::Real();
    const worker::TrainingState state;
    for (const int64_t step : {10, 20, 30}) {
      worker::SaveOptions save_options;
      save_options.step = Step(step);
      save_options.width = 2;
      const auto manifest = worker::Save(real, folder, state, save_options);
      ASSERT_TRUE(manifest.ok()) << manifest.status();
      EXPECT_EQ(ParseManifestName(*manifest)->epoch, step / 10) << "every name is used once";
      EXPECT_EQ(FindNewestCheckpoint(real, folder, {}, nullptr)->manifest_name(), *manifest);
    }
    worker::PruneOptions prune;
    prune.job_id = "job-a";
    prune.generation = Generation(1);
    prune.keep = 1;
    EXPECT_TRUE(worker::PruneCheckpoints(real, folder, prune).ok());
    EXPECT_GT((*fuse)->answered_twice(), 6);
    EXPECT_EQ(FindNewestCheckpoint(real, folder, {}, nullptr)->manifest().facts.key.step, Step(30));
    EXPECT_EQ(ListManifests(real, folder)->size(), 1u);
  }
}

// A disk that has room for less and less of a second checkpoint.
TEST_F(StorageJob, RealDiskThatFills_KeepsTheOldCheckpointAndTakesTheNewOneWithRoom) {
  auto disk = SmallDisk::Create(save(), 16 << 20);
  if (!disk.ok()) GTEST_SKIP() << disk.status();
  FileSystem& real = FileSystem::Real();
  const worker::TrainingState state;
  worker::SaveOptions options;
  options.width = 2;
  options.step = Step(10);
  ASSERT_TRUE(worker::Save(real, save(), state, options).ok());
  uint64_t used = 0;
  for (const std::string& name : NamesIn(save())) used += fs::file_size(save() + "/" + name) + 8192;
  options.step = Step(20);
  options.first_incarnation = 0x2000;
  const std::vector<std::string> before = real.List(save()).value();
  int refused = 0;
  for (uint64_t room = 0; room < used; room += used / 40) {
    ASSERT_TRUE((*disk)->Resize(static_cast<int64_t>(used + room)).ok());
    const absl::Status saved = worker::Save(real, save(), state, options).status();
    if (saved.ok()) break;
    ++refused;
    EXPECT_EQ(saved.code(), absl::StatusCode::kResourceExhausted) << saved;
    EXPECT_EQ(real.List(save()).value(), before);
    EXPECT_EQ(FindNewestCheckpoint(real, save(), {}, nullptr)->manifest().facts.key.step, Step(10));
  }
  EXPECT_GT(refused, 10);
  EXPECT_EQ(FindNewestCheckpoint(real, save(), {}, nullptr)->manifest().facts.key.step, Step(20));
}

}  // namespace
}  // namespace dsrun
