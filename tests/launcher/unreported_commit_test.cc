// A checkpoint of which the coordinator has not heard.

#include "launcher/shell/unreported_commit.h"

#include <gtest/gtest.h>

#include <future>
#include <string>

#include "tests/fakes/faulty_file_system.h"
#include "tests/worker/checkpoint/training_state.h"

namespace dsrun::launcher {
namespace {

class UnreportedCommitTest : public ::testing::Test {
 protected:
  std::string Save(int64_t step, int64_t generation, const std::string& job = "job-a") {
    worker::SaveOptions options;
    options.job_id = job;
    options.step = Step(step);
    options.generation = Generation(generation);
    options.width = 2;
    const absl::StatusOr<std::string> manifest = worker::Save(fs_, "/save", state_, options);
    EXPECT_TRUE(manifest.ok()) << manifest.status();
    return *manifest;
  }
  // The manifest; "": none.
  std::string Found(const std::string& reported) {
    const auto found = FindUnreportedCommit(fs_, "/save", "job-a", reported);
    return found ? found->manifest : "";
  }

  FaultyFileSystem fs_;
  const worker::TrainingState state_;
};

TEST_F(UnreportedCommitTest, NewerThanTheReportedOne_IsFound) {
  const std::string first = Save(10, 1);
  const std::string second = Save(20, 1);
  EXPECT_EQ(Found(""), second);
  EXPECT_EQ(Found(first), second);
  EXPECT_EQ(Found(second), "");
  EXPECT_EQ(FindUnreportedCommit(fs_, "/save", "job-a", first)->step, 20);
  EXPECT_EQ(
      FindUnreportedCommitWithin(absl::InfiniteDuration(), fs_, "/save", "job-a", first)->manifest,
      second);
}

TEST_F(UnreportedCommitTest, OneOfAnotherJob_OrThrownAway_IsNot) {
  const std::string old = Save(30, 1);
  Save(40, 1, "job-b");
  EXPECT_EQ(Found(""), old);
  // The job went back behind step 30 (--allow-rewind): that one is older than what was reported.
  const std::string rewound = Save(10, 2);
  EXPECT_EQ(Found(rewound), "");
}

TEST_F(UnreportedCommitTest, WhatIsDamagedOrCannotBeRead_IsPassedOver) {
  const std::string first = Save(10, 1);
  const std::string second = Save(20, 1);
  std::string text = *ReadFile(fs_, "/save/" + second);
  text[text.size() / 2] ^= 1;
  fs_.Write("/save/" + second, text);
  EXPECT_EQ(Found(""), first);
  EXPECT_EQ(Found(first), "");
  EXPECT_FALSE(FindUnreportedCommit(fs_, "/nowhere", "job-a", "").has_value());
}

}  // namespace
}  // namespace dsrun::launcher
