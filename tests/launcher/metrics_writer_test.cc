// What becomes of the metrics that an earlier job has left.

#include "launcher/shell/metrics_writer.h"

#include <gtest/gtest.h>

#include <string>

#include "tests/fakes/faulty_file_system.h"

namespace dsrun::launcher {
namespace {

constexpr char kPath[] = "/run/metrics";

std::string OneStepAfter(const std::string& earlier) {
  FaultyFileSystem fs;
  EXPECT_TRUE(fs.CreateFolder("/run").ok());
  if (!earlier.empty()) fs.Write(kPath, earlier);
  const auto writer = MetricsWriter::Create(fs, kPath);
  EXPECT_TRUE(writer.ok()) << writer.status();
  struct Progress progress;
  progress.generation = Generation(1);
  progress.done.set_step(7);
  EXPECT_TRUE((*writer)->Write(progress).ok());
  return *ReadFile(fs, kPath);
}

TEST(MetricsWriter, WhatIsThere_StaysWhoeverWroteIt) {
  const std::string line = OneStepAfter("");
  EXPECT_TRUE(line.starts_with("{\"step\":7,")) << line;
  EXPECT_EQ(OneStepAfter("{\"step\":6}\n"), "{\"step\":6}\n" + line);
  // Torn by a full disk: the new line stands alone.
  EXPECT_EQ(OneStepAfter("{\"step\":6}\n{\"st"), "{\"step\":6}\n{\"st\n" + line);
}

}  // namespace
}  // namespace dsrun::launcher
