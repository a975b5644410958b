#include "tests/support/terminal.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>

#include "common/base/clock.h"

namespace dsrun {

Terminal::Terminal(int columns) {
  readers_end_ = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  EXPECT_TRUE(readers_end_ >= 0 && grantpt(readers_end_) == 0 && unlockpt(readers_end_) == 0);
  path_ = ptsname(readers_end_);
  programs_end_ = open(path_.c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC);
  EXPECT_GE(programs_end_, 0);
  if (columns > 0) Resize(columns);
}

Terminal::~Terminal() {
  close(programs_end_);
  close(readers_end_);
}

void Terminal::Resize(int columns) const {
  winsize size = {};
  size.ws_row = 24;
  size.ws_col = static_cast<unsigned short>(columns);
  EXPECT_EQ(ioctl(readers_end_, TIOCSWINSZ, &size), 0);
}

void Terminal::Type(std::string_view keys) const {
  EXPECT_EQ(write(readers_end_, keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
}

bool Terminal::ReadSome(int wait_ms) {
  pollfd ready{.fd = readers_end_, .events = POLLIN, .revents = 0};
  if (poll(&ready, 1, wait_ms) <= 0) return false;
  char buffer[4096];
  const ssize_t got = read(readers_end_, buffer, sizeof(buffer));
  if (got > 0) text_.append(buffer, static_cast<size_t>(got));
  return got > 0;
}

bool Terminal::Await(std::string_view end, absl::Duration limit) {
  const SteadyTime deadline = Clock::Real().SteadyNow() + limit;
  while (true) {
    if (const size_t at = text_.find(end, found_); at != std::string::npos) {
      found_ = at + end.size();
      return true;
    }
    if (!ReadSome(10) && Clock::Real().SteadyNow() > deadline) return false;
  }
}

void Terminal::Drain() {
  while (ReadSome(0)) {
  }
}

std::string ScreenModel::Row(size_t row) const {
  const std::string& text = rows_.at(row);
  return text.substr(0, text.find_last_not_of(' ') + 1);
}

void ScreenModel::Feed(std::string_view bytes) {
  while (!bytes.empty()) {
    const char byte = bytes.front();
    size_t taken = 1;
    if (byte == '\r') {
      column_ = 0;
    } else if (byte == '\n') {
      if (++row_ == rows_.size()) rows_.emplace_back();
    } else if (byte == '\033') {
      taken = Escape(bytes);
    } else if (static_cast<unsigned char>(byte) < ' ' || byte == '\177') {
      strange_ += byte;
    } else if ((static_cast<unsigned char>(byte) & 0xc0) != 0x80) {  // once a letter of UTF-8
      Put(static_cast<unsigned char>(byte) < 0x80 ? byte : '?');
    }
    bytes.remove_prefix(taken);
  }
}

void ScreenModel::Put(char letter) {
  if (column_ >= columns_) {
    ++wraps_;
    column_ = 0;
    if (++row_ == rows_.size()) rows_.emplace_back();
  }
  std::string& row = rows_[row_];
  if (row.size() <= column_) row.resize(column_ + 1, ' ');
  row[column_++] = letter;
}

size_t ScreenModel::Escape(std::string_view bytes) {
  size_t end = bytes.size() > 1 && bytes[1] == '[' ? 2 : 1;
  if (end == 2) end = std::min(bytes.find_first_not_of("0123456789;:", end), bytes.size());
  const std::string_view sequence = bytes.substr(0, std::min(end + 1, bytes.size()));
  if (sequence == "\033[K") {
    rows_[row_].resize(std::min(rows_[row_].size(), column_));
  } else if (sequence.back() != 'm') {
    strange_ += sequence;
  }
  return sequence.size();
}

void ScreenModel::Resize(size_t columns) {
  columns_ = columns;
  for (std::string& row : rows_) row.resize(std::min(row.size(), columns));
  column_ = std::min(column_, columns);
}

}  // namespace dsrun
