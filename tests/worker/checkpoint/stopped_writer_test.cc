// A writer process that is stopped in the middle of a save, overtaken by the next generation in
// another process, and woken again: real processes, real SIGSTOP, the real file system. At every
// operation of the save, and for a successor that stands at an earlier step or at the same.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "common/base/file_system.h"
#include "common/format/checkpoint_reader.h"
#include "common/format/content_hash.h"
#include "tests/fakes/faulty_file_system.h"
#include "tests/fakes/stopping_file_system.h"
#include "tests/worker/checkpoint/training_state.h"
#include "worker/checkpoint/prune.h"

namespace dsrun::worker {
namespace {

using ::testing::AnyOf;

constexpr Step kStoppedStep = Step(20);

SaveOptions At(Step step, Generation generation) {
  SaveOptions options;
  options.step = step;
  options.generation = generation;
  // The successor of rank 0 is the same process or another one; another one here.
  options.first_incarnation = 0x1000 * static_cast<uint64_t>(generation.value());
  options.width = 2;
  return options;
}

// As a run does it: save, then tidy.
absl::Status SaveAndPrune(FileSystem& fs, const std::string& folder, const TrainingState& state,
                          const SaveOptions& options) {
  const auto manifest = Save(fs, folder, state, options);
  if (!manifest.ok()) return manifest.status();
  return PruneCheckpoints(fs, folder, {options.job_id, options.generation, /*keep=*/1}).status();
}

// A process of its own that saves in generation 1, stops itself at operation `stop_at` and exits
// with the code of the status with which the save ended.
class Writer {
 public:
  Writer(const std::string& folder, const TrainingState& state, int64_t stop_at) : pid_(fork()) {
    if (pid_ != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // a stopped process does not outlive a failed test
    StoppingFileSystem fs(FileSystem::Real(), stop_at, [] { raise(SIGSTOP); });
    _exit(
        static_cast<int>(SaveAndPrune(fs, folder, state, At(kStoppedStep, Generation(1))).code()));
  }
  ~Writer() {
    if (ended_) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }

  // False: it ended before it got there.
  bool AwaitStop() {
    int status = 0;
    waitpid(pid_, &status, WUNTRACED);
    ended_ = !WIFSTOPPED(status);
    return !ended_;
  }
  absl::StatusCode WakeAndAwaitEnd() {
    kill(pid_, SIGCONT);
    int status = 0;
    waitpid(pid_, &status, 0);
    ended_ = true;
    EXPECT_TRUE(WIFEXITED(status)) << "wait status " << status;
    return static_cast<absl::StatusCode>(WEXITSTATUS(status));
  }

 private:
  const pid_t pid_;
  bool ended_ = false;
};

class StoppedWriterTest : public ::testing::TestWithParam<int64_t> {
 protected:
  StoppedWriterTest() : root_(::testing::TempDir() + "/stopped-XXXXXX") {
    EXPECT_NE(mkdtemp(root_.data()), nullptr);
    for (const Step step : {Step(10), Step(15), kStoppedStep, Step(40)}) {
      FaultyFileSystem memory;
      EXPECT_TRUE(Save(memory, "/save", state_, At(step, Generation(1))).ok());
      auto whole = FindNewestCheckpoint(memory, "/save", {}, nullptr);
      hashes_[step] = ContentHash(*whole).value();
    }
    StoppingFileSystem counted(FileSystem::Real(), /*at=*/-1, nullptr);
    EXPECT_TRUE(Save(counted, root_ + "/first", state_, At(Step(10), Generation(1))).ok());
    std::filesystem::copy(root_ + "/first", root_ + "/counted");
    const int64_t before = counted.operations();
    EXPECT_TRUE(
        SaveAndPrune(counted, root_ + "/counted", state_, At(kStoppedStep, Generation(1))).ok());
    operations_ = counted.operations() - before;
  }
  ~StoppedWriterTest() override { std::filesystem::remove_all(root_); }

  // The newest checkpoint is whole and holds what its step should hold.
  ManifestKey ExpectNewestIsGood(const std::string& folder) {
    auto newest = FindNewestCheckpoint(FileSystem::Real(), folder, {}, nullptr);
    EXPECT_TRUE(newest.ok()) << newest.status();
    if (!newest.ok()) return {};
    const ManifestKey key = newest->manifest().facts.key;
    EXPECT_EQ(ContentHash(*newest).value(), hashes_[key.step]);
    return key;
  }

  std::string root_;
  const TrainingState state_;
  std::map<Step, std::string> hashes_;
  int64_t operations_ = 0;
};

TEST_P(StoppedWriterTest, OvertakenAndWokenAtAnyOperation_SpoilsNothing) {
  const Step overtaking(GetParam());
  FileSystem& fs = FileSystem::Real();
  ASSERT_GT(operations_, 20);
  std::map<absl::StatusCode, int64_t> ends;
  for (int64_t n = 0; n < operations_; ++n) {
    SCOPED_TRACE("stopped at operation " + std::to_string(n));
    const std::string folder = root_ + "/" + std::to_string(n);
    std::filesystem::copy(root_ + "/first", folder);
    Writer writer(folder, state_, n);
    ASSERT_TRUE(writer.AwaitStop());

    ASSERT_TRUE(SaveAndPrune(fs, folder, state_, At(overtaking, Generation(2))).ok());
    // Of generation 2, unless generation 1 had committed already, at a step beyond.
    const std::string winner =
        FindNewestCheckpoint(fs, folder, {}, nullptr).value().manifest_name();
    const std::string bytes = ReadFile(fs, JoinPath(folder, winner)).value();

    const absl::StatusCode end = writer.WakeAndAwaitEnd();
    ++ends[end];
    // Its shards, or its unfinished manifest, may have been tidied away.
    EXPECT_THAT(end, AnyOf(absl::StatusCode::kOk, absl::StatusCode::kFailedPrecondition,
                           absl::StatusCode::kNotFound));
    EXPECT_EQ(ReadFile(fs, JoinPath(folder, winner)).value(), bytes);
    EXPECT_TRUE(OpenCheckpoint(fs, folder, winner, Verify::kFull).ok());
    const ManifestKey newest = ExpectNewestIsGood(folder);
    EXPECT_GE(newest.step, overtaking);
    if (overtaking == kStoppedStep) {
      EXPECT_EQ(newest.generation, Generation(2));
    }

    // What the successor saves next stands above everything the old one could do.
    ASSERT_TRUE(SaveAndPrune(fs, folder, state_, At(Step(40), Generation(2))).ok());
    EXPECT_EQ(ExpectNewestIsGood(folder).step, Step(40));
    std::filesystem::remove_all(folder);
    if (HasFailure()) return;
  }
  for (const auto& [code, count] : ends) {
    std::cout << count << " of " << operations_ << " writers ended with "
              << absl::StatusCodeToString(code) << "\n";
  }
  EXPECT_GT(ends[absl::StatusCode::kOk], 0);
  if (overtaking < kStoppedStep) {
    // Its shards are of a step that nobody has reached since, so they stay, and it commits.
    EXPECT_EQ(ends[absl::StatusCode::kOk], operations_);
  } else {
    // Both happened: writers that still committed, and writers that were refused.
    EXPECT_GT(ends[absl::StatusCode::kFailedPrecondition], 0);
  }
}

INSTANTIATE_TEST_SUITE_P(SuccessorAtStep, StoppedWriterTest, ::testing::Values(15, 20),
                         [](const auto& info) { return std::to_string(info.param); });

}  // namespace
}  // namespace dsrun::worker
