// What becomes of the metrics that an earlier job has left, and of those that their file does not
// take.

#include "launcher/shell/metrics_writer.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <string>

#include "common/base/file_system.h"
#include "tests/fakes/faulty_file_system.h"

namespace dsrun::launcher {
namespace {

using ::testing::HasSubstr;

constexpr char kPath[] = "/run/metrics";

struct Progress Step(int64_t step) {
  struct Progress progress;
  progress.generation = Generation(1);
  progress.done.set_step(step);
  return progress;
}

std::string OneStepAfter(const std::string& earlier) {
  FaultyFileSystem fs;
  EXPECT_TRUE(fs.CreateFolder("/run").ok());
  if (!earlier.empty()) fs.Write(kPath, earlier);
  const auto writer = MetricsWriter::Create(fs, kPath);
  EXPECT_TRUE(writer.ok()) << writer.status();
  EXPECT_TRUE((*writer)->Write(Step(7)).ok());
  EXPECT_EQ((*writer)->Finish(), absl::OkStatus());
  return *ReadFile(fs, kPath);
}

TEST(MetricsWriter, WhatIsThere_StaysWhoeverWroteIt) {
  const std::string line = OneStepAfter("");
  EXPECT_TRUE(line.starts_with("{\"step\":7,")) << line;
  EXPECT_EQ(OneStepAfter("{\"step\":6}\n"), "{\"step\":6}\n" + line);
  // Torn by a full disk: the new line stands alone.
  EXPECT_EQ(OneStepAfter("{\"step\":6}\n{\"st"), "{\"step\":6}\n{\"st\n" + line);
}

std::string NewPipe() {
  std::string folder = ::testing::TempDir() + "/metricsXXXXXX";
  EXPECT_NE(mkdtemp(folder.data()), nullptr);
  const std::string pipe = folder + "/pipe";
  EXPECT_EQ(mkfifo(pipe.c_str(), 0666), 0);
  return pipe;
}

TEST(MetricsWriter, PipeThatNobodyReads_IsRefusedAtTheBound) {
  const std::string pipe = NewPipe();
  const absl::Status refused =
      MetricsWriter::Create(FileSystem::Real(), pipe, {.open_within = absl::Milliseconds(20)})
          .status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kDeadlineExceeded) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("metrics file " + pipe));
  close(open(pipe.c_str(), O_RDONLY | O_NONBLOCK));  // the thread that was left behind ends
}

TEST(MetricsWriter, ReaderWhoStops_HoldsUpNobodyAndTheLinesAreCounted) {
  const std::string pipe = NewPipe();
  const int reader = open(pipe.c_str(), O_RDONLY | O_NONBLOCK);
  ASSERT_GE(reader, 0);
  const int filler = open(pipe.c_str(), O_WRONLY | O_NONBLOCK);
  const std::string page(4096, 'x');
  while (write(filler, page.data(), page.size()) > 0) {
  }
  close(filler);
  const auto writer = MetricsWriter::Create(
      FileSystem::Real(), pipe, {.end_within = absl::Milliseconds(20), .most_bytes = 1000});
  ASSERT_TRUE(writer.ok()) << writer.status();
  constexpr int kLines = 100;
  int said = 0;
  for (int i = 0; i < kLines; ++i) {
    const absl::Status written = (*writer)->Write(Step(i));
    if (written.ok()) continue;
    ++said;
    EXPECT_THAT(std::string(written.message()), HasSubstr(pipe + " takes nothing"));
  }
  EXPECT_EQ(said, 1);
  EXPECT_EQ((*writer)->Finish().message(), "metrics are missing in " + pipe + ": " +
                                               std::to_string(kLines) +
                                               " lines (the file has not answered for 20ms)");
  close(reader);  // the thread that was left behind ends
}

TEST(MetricsWriter, FullDisk_IsSaidOnceAndCountedAtTheEnd) {
  const auto writer = MetricsWriter::Create(FileSystem::Real(), "/dev/full");
  ASSERT_TRUE(writer.ok()) << writer.status();
  absl::Status said = absl::OkStatus();
  int lines = 0;
  for (; said.ok(); ++lines) said = (*writer)->Write(Step(lines));
  EXPECT_THAT(std::string(said.message()), HasSubstr("metrics are not written any more: "));
  EXPECT_EQ((*writer)->Write(Step(lines++)), absl::OkStatus()) << "said already";
  EXPECT_THAT(std::string((*writer)->Finish().message()),
              HasSubstr("/dev/full: " + std::to_string(lines) + " lines (cannot write to"));
}

}  // namespace
}  // namespace dsrun::launcher
