// What a rank may do to a terminal: print letters, and colour them.

#include "launcher/console/terminal_text.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace dsrun::launcher {
namespace {

TEST(TerminalText, WhatMovesTheCursorOrTurnsTheText_IsSpeltOut) {
  const std::vector<std::pair<std::string, std::string>> table = {
      {"plain\ttext \\x41", "plain\ttext \\x41"},
      {"up\x1b[1A", "up\\x1b[1A"},
      {"clear\x1b[2J\x1b[H", "clear\\x1b[2J\\x1b[H"},
      {"title\x1b]0;x\x07", "title\\x1b]0;x\\x07"},
      {"reset\x1b"
       "c",
       "reset\\x1bc"},
      {"return\rdsrun: forged", "return\\x0ddsrun: forged"},
      {"feed\v\f\n\b\x7f", "feed\\x0b\\x0c\\x0a\\x08\\x7f"},
      {"C1 as UTF-8 \xc2\x9b"
       "31m",
       "C1 as UTF-8 \\u009b31m"},
      {"C1 as a byte \x9b"
       "31m",
       "C1 as a byte \\x9b31m"},
      {"no UTF-8 \xff\xc3(", "no UTF-8 \\xff\\xc3("},
      {"turned \xe2\x80\xae"
       "mrah",
       "turned \\u202emrah"},
      {"a line \xe2\x80\xa8more", "a line \\u2028more"},
      {"kept \xc3\xa9 \xe6\xbc\xa2 \xc2\xa0 \xe2\x9a\xa0\xef\xb8\x8f", ""},
      {std::string("nul\0", 4), "nul\\x00"},
  };
  for (const auto& [text, shown] : table) {
    EXPECT_EQ(TerminalText(text), shown.empty() ? text : shown);
  }
}

TEST(TerminalText, Colours_StayAndEndWithTheText) {
  EXPECT_EQ(TerminalText("\x1b[31mred"), "\x1b[31mred\x1b[0m");
  EXPECT_EQ(TerminalText("\x1b[1;38:5:9mred\x1b[m plain"), "\x1b[1;38:5:9mred\x1b[m plain\x1b[0m");
  // No colours, though they end as one.
  EXPECT_EQ(TerminalText("\x1b[?25m \x1b[>4;2m"), "\\x1b[?25m \\x1b[>4;2m");
  EXPECT_EQ(TerminalText("\x1b[" + std::string(100, '1') + "m").substr(0, 5), "\\x1b[");
}

TEST(TerminalText, PartsOfALine_KeepItsColours) {
  std::string colours;
  EXPECT_EQ(TerminalText("a\x1b[31mb", colours), "a\x1b[31mb\x1b[0m");
  EXPECT_EQ(TerminalText("", colours), "");
  EXPECT_EQ(TerminalText("\x1b[1mc", colours), "\x1b[31m\x1b[1mc\x1b[0m");
  EXPECT_EQ(TerminalText("d\x1b[0me", colours), "\x1b[31m\x1b[1md\x1b[0me\x1b[0m");
  EXPECT_EQ(TerminalText("f", colours), "f");
  for (int i = 0; i < 100; ++i) TerminalText("\x1b[31m\x1b[32m", colours);
  EXPECT_LE(colours.size(), 64u);
}

TEST(TerminalText, AnyBytes_LeaveNothingThatATerminalActsUpon) {
  const auto seed = std::random_device()();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937 random(seed);
  const std::string often = "\x1b[]0;m\x9b\xc2\r\n";
  for (int trial = 0; trial < 2000; ++trial) {
    std::string text;
    while (text.size() < 40) {
      text += random() % 2 == 0 ? often[random() % often.size()] : static_cast<char>(random());
    }
    std::string shown = TerminalText(text);
    for (size_t at = 0; (at = shown.find('\x1b', at)) != std::string::npos; ++at) {
      const size_t end = shown.find_first_not_of("0123456789;:", at + 2);
      ASSERT_TRUE(shown[at + 1] == '[' && end != std::string::npos && shown[end] == 'm') << text;
      shown[at] = ' ';
    }
    for (const char byte : shown) {
      ASSERT_TRUE(byte == '\t' || static_cast<unsigned char>(byte) >= ' ') << text;
      ASSERT_NE(byte, '\x7f') << text;
    }
    EXPECT_EQ(shown.find("\xc2\x9b"), std::string::npos) << text;
  }
}

std::string Rows(std::string_view text, size_t columns, size_t column = 0) {
  return InRows(text, columns, column);
}

TEST(InRows, WhatDoesNotFit_GoesOnBehindABlank) {
  EXPECT_EQ(Rows("", 10), "");
  EXPECT_EQ(Rows("0123456789", 10), "0123456789");
  EXPECT_EQ(Rows("0123456789a", 10), "0123456789\n  a");
  EXPECT_EQ(Rows("0123456789abcdefghij", 10), "0123456789\n  abcdefgh\n  ij");
  // What a rank that fills the row before would have at the beginning of a row.
  EXPECT_EQ(Rows("[w:0]     dsrun: all is well", 10), "[w:0]     \n  dsrun: a\n  ll is we\n  ll");
  EXPECT_EQ(Rows("[w:0] \tdsrun:", 10), "[w:0]   ds\n  run:");
  EXPECT_EQ(Rows("[w:0] 12\tdsrun:", 10), "[w:0] 12\n  dsrun:");
}

TEST(InRows, ColoursTakeNoRoom_WideLettersTwo_AndThoseOnOthersOne) {
  EXPECT_EQ(Rows("\033[31m0123456789\033[0m", 10), "\033[31m0123456789\033[0m");
  EXPECT_EQ(Rows("012345678\u4e2d", 10), "012345678\n  \u4e2d");
  EXPECT_EQ(Rows("01234567\u4e2d", 10), "01234567\u4e2d");
  // Pictures among the symbols of plain text.
  for (const std::string wide : {"\u2705", "\u26a1", "\u2b50", "\u23f3", "\U0001f004"}) {
    EXPECT_EQ(Rows("012345678" + wide, 10), "012345678\n  " + wide);
  }
  EXPECT_EQ(Rows("012345678e\u0301", 10), "012345678e\n  \u0301");
}

TEST(InRows, PartsOfALine_AreBrokenAsTheWhole) {
  const std::string text = "a line\t\u4e2d of several rows that is \033[1mnot whole\033[0m yet";
  for (const size_t columns : {size_t{1}, size_t{8}, size_t{11}, size_t{30}, size_t{1000}}) {
    size_t column = 0;
    const std::string whole = InRows(text, columns, column);
    const size_t end = column;
    for (const size_t cut : {size_t{3}, size_t{6}, size_t{7}, size_t{20}}) {
      column = 0;
      const std::string first = InRows(text.substr(0, cut), columns, column);
      EXPECT_EQ(first + InRows(text.substr(cut), columns, column), whole) << cut;
      EXPECT_EQ(column, end);
    }
  }
}

TEST(WholeBytes, HalfALetterOrColourAtTheEnd_Waits) {
  const std::vector<std::pair<std::string, size_t>> table = {
      {"", 0},
      {"abc", 3},
      {"ab\xc3", 2},
      {"ab\xc3\xa9", 4},
      {"ab\xe6\xbc", 2},
      {"ab\xe6\xbc\xa2", 5},
      {"ab\xf0\x9f\x98", 2},
      {"ab\x80\x80\x80\x80", 6},  // no letter's rest: it waits for nothing
      {"ab\x1b", 2},
      {"ab\x1b[", 2},
      {"ab\x1b[3", 2},
      {"ab\x1b[31m", 7},
      {"ab\x1b[2J", 6},
      {"ab\x1b]", 4},
  };
  for (const auto& [text, whole] : table) EXPECT_EQ(WholeBytes(text), whole) << text;
}

TEST(Columns, WideAndCombiningLetters_CountAsTheyAreShown) {
  EXPECT_EQ(Columns("abc"), 3u);
  EXPECT_EQ(Columns("\xe6\xbc\xa2\xe5\xad\x97"), 4u);  // two ideographs
  EXPECT_EQ(Columns("e\xcc\x81"), 1u);                 // e and an accent
  EXPECT_EQ(Columns("\xf0\x9f\x9a\x80"), 2u);          // a rocket
  EXPECT_EQ(FirstColumns("a\xe6\xbc\xa2"
                         "b",
                         2),
            "a");  // half an ideograph is none
  EXPECT_EQ(FirstColumns("a\xe6\xbc\xa2"
                         "b",
                         3),
            "a\xe6\xbc\xa2");
  EXPECT_EQ(FirstColumns("e\xcc\x81"
                         "b",
                         1),
            "e\xcc\x81");
  EXPECT_EQ(FirstColumns("abc", 0), "");
}

}  // namespace
}  // namespace dsrun::launcher
