// Standard output of a command: whole, or an error.

#include "launcher/commands/result_output.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <iostream>
#include <string>
#include <thread>

namespace dsrun::launcher {
namespace {

TEST(ResultOutput, FullDisk_IsAnErrorWhateverIsWritten) {
  for (const size_t bytes : {size_t{1}, size_t{1} << 20}) {
    const int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    ASSERT_GE(full, 0);
    ResultOutput output(full);
    std::cout << std::string(bytes, 'x');
    EXPECT_EQ(output.Finish().message(),
              "standard output is not complete: No space left on device");
    close(full);
  }
}

TEST(ResultOutput, ReaderThatIsGone_IsAnErrorWhereNoSignalSaysSo) {
  signal(SIGPIPE, SIG_IGN);
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  close(ends[0]);
  ResultOutput output(ends[1]);
  std::cout << "nobody reads this\n" << std::flush;
  EXPECT_EQ(output.Finish().message(), "standard output is not complete: Broken pipe");
  std::cout.clear();
  close(ends[1]);
}

// Somebody else has set O_NONBLOCK on the open file.
TEST(ResultOutput, SlowReader_GetsEverythingAndTheStreamIsAsBefore) {
  const std::string text(300'000, 'x');
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
  fcntl(ends[0], F_SETFL, 0);
  std::string got;
  std::thread reader([&] {
    char bytes[1000];
    for (ssize_t count; (count = read(ends[0], bytes, sizeof(bytes))) > 0;) {
      got.append(bytes, static_cast<size_t>(count));
    }
  });
  std::streambuf* const before = std::cout.rdbuf();
  {
    ResultOutput output(ends[1]);
    std::cout << text.substr(0, 5) << text.substr(5);
    EXPECT_TRUE(output.Finish().ok());
  }
  EXPECT_EQ(std::cout.rdbuf(), before);
  close(ends[1]);
  reader.join();
  EXPECT_EQ(got, text);
  close(ends[0]);
}

}  // namespace
}  // namespace dsrun::launcher
