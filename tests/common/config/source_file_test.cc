// The reader of hostfiles and environment files, on a real file system.

#include "common/config/source_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace dsrun {
namespace {

namespace fs = std::filesystem;

class SourceFileTest : public testing::Test {
 protected:
  SourceFileTest() {
    EXPECT_NE(mkdtemp(folder_.data()), nullptr);
    std::ofstream(folder_ + "/file") << "a\nb";
  }
  ~SourceFileTest() override { fs::remove_all(folder_); }
  // "CODE: MESSAGE", or what was read.
  std::string Read(const std::string& name) const {
    const absl::StatusOr<std::string> text = ReadSourceFile(folder_ + "/" + name, name);
    if (text.ok()) return *text;
    return absl::StatusCodeToString(text.status().code()) + ": " +
           std::string(text.status().message());
  }
  std::string folder_ = "/tmp/sourceXXXXXX";
};

TEST_F(SourceFileTest, FilesLinksAndPipes_AreRead) {
  fs::create_symlink("file", folder_ + "/link");
  EXPECT_EQ(Read("file"), "a\nb");
  EXPECT_EQ(Read("link"), "a\nb");
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  ASSERT_EQ(write(ends[1], "from a pipe", 11), 11);
  close(ends[1]);
  const std::string path = "/proc/self/fd/" + std::to_string(ends[0]);
  EXPECT_EQ(ReadSourceFile(path, path).value_or("nothing"), "from a pipe");
  close(ends[0]);
  EXPECT_EQ(ReadSourceFile("/dev/null", "x").value_or("nothing"), "");
}

// As of `-H <(generate)`: text comes in pieces, and the writer's end is the text's.
TEST_F(SourceFileTest, PipeWhoseWriterTakesItsTime_IsReadToItsEnd) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const std::string path = "/proc/self/fd/" + std::to_string(ends[0]);
  std::string long_text;
  for (int i = 0; i < 20'000; ++i) long_text += "host-" + std::to_string(i) + " slots=8\n";
  std::thread writer([&] {
    for (size_t done = 0; done < long_text.size();) {
      const ssize_t count = write(ends[1], long_text.data() + done, long_text.size() - done);
      if (count <= 0) break;
      done += static_cast<size_t>(count);
      std::this_thread::yield();
    }
    close(ends[1]);
  });
  EXPECT_EQ(ReadSourceFile(path, path).value_or("nothing"), long_text);
  writer.join();
  close(ends[0]);
}

TEST_F(SourceFileTest, NamedPipe_IsReadWhenSomebodyWritesToIt) {
  const std::string path = folder_ + "/pipe";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  std::thread writer([&] { std::ofstream(path) << "localhost slots=2\n"; });
  EXPECT_EQ(Read("pipe"), "localhost slots=2\n");
  writer.join();
}

TEST_F(SourceFileTest, PipeThatIsSilent_IsGivenUpAndNamed) {
  const std::string path = folder_ + "/pipe";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  const absl::Duration silence = absl::Milliseconds(20);
  EXPECT_EQ(
      ReadSourceFile(path, "pipe", silence).status(),
      absl::DeadlineExceededError(
          "\"pipe\" is a pipe, and nobody has written to it for 20ms; start what writes to it "
          "first, or name a file"));
  const int both = open(path.c_str(), O_RDWR | O_CLOEXEC);  // a writer who never ends
  ASSERT_EQ(write(both, "a", 1), 1);
  EXPECT_EQ(
      ReadSourceFile(path, "pipe", silence).status(),
      absl::DeadlineExceededError(
          "\"pipe\" is a pipe, and what writes to it has neither said more nor ended for 20ms; "
          "write to a file first and name that"));
  close(both);
}

TEST_F(SourceFileTest, EverythingElse_IsSaidByItsCause) {
  fs::create_directory(folder_ + "/folder");
  fs::create_symlink("gone", folder_ + "/dangling");
  fs::create_symlink("circle", folder_ + "/circle");
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un name = {};
  name.sun_family = AF_UNIX;
  strncpy(name.sun_path, (folder_ + "/socket").c_str(), sizeof(name.sun_path) - 1);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&name), sizeof(name)), 0);
  EXPECT_EQ(Read("none"), "NOT_FOUND: there is no file \"none\"; check the path");
  EXPECT_EQ(
      Read("file/none"),
      "NOT_FOUND: there is no file \"file/none\", because a part of its path is a file itself; "
      "check the path");
  EXPECT_EQ(Read("folder"), "FAILED_PRECONDITION: \"folder\" is a folder, not a text file");
  EXPECT_EQ(Read("dangling"),
            "FAILED_PRECONDITION: \"dangling\" is a link to a file that is not there");
  EXPECT_EQ(Read("circle"), "FAILED_PRECONDITION: \"circle\" is a link that leads back to itself");
  EXPECT_EQ(Read("socket"), "FAILED_PRECONDITION: \"socket\" is a socket, not a text file");
  EXPECT_EQ(ReadSourceFile("/dev/zero", "x").status().message(),
            "\"x\" is larger than 16 MiB; is this the right file?");
  EXPECT_EQ(ReadSourceFile("/proc/self/mem", "x").status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReadSourceFile(folder_, "").status().message(), "expected a file, got an empty name");
  close(fd);
}

TEST_F(SourceFileTest, OfAnotherUser_MayNotBeRead) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can give a file away";
  ASSERT_EQ(chmod((folder_ + "/file").c_str(), 0600), 0);
  ASSERT_EQ(chmod(folder_.c_str(), 0755), 0);
  if (seteuid(65534) != 0) GTEST_SKIP() << "this sandbox knows one user alone";
  const std::string got = Read("file");
  ASSERT_EQ(seteuid(0), 0);
  EXPECT_EQ(
      got,
      "PERMISSION_DENIED: \"file\" may not be read by uid 65534; check the permissions of the "
      "file and of its folders");
}

}  // namespace
}  // namespace dsrun
