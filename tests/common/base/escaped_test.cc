#include "common/base/escaped.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <utility>
#include <vector>

namespace dsrun {
namespace {

TEST(Escaped, SpellsOutWhatCannotBeSeen_AndLeavesLetters) {
  const std::vector<std::pair<std::string, std::string>> table = {
      {"plain, \"quoted\" \\ text", "plain, \"quoted\" \\ text"},
      {"caf\xc3\xa9 \xe6\x97\xa5 \xf0\x9f\x98\x80", "caf\xc3\xa9 \xe6\x97\xa5 \xf0\x9f\x98\x80"},
      {std::string("\0\x1b[2J\x7f\t\n", 8), "\\x00\\x1b[2J\\x7f\\x09\\x0a"},
      {"a\xc2\xa0z", "a\\u00a0z"},                            // no-break space
      {"\xef\xbb\xbfz", "\\ufeffz"},                          // byte order mark
      {"a\xe2\x80\x8bz", "a\\u200bz"},                        // zero-width space
      {"a\xe2\x80\xaez", "a\\u202ez"},                        // right-to-left override
      {"a\xc2\x9bz", "a\\u009bz"},                            // a control of eight bits
      {"a\xf3\xa0\x80\x81z", "a\\U000e0001z"},                // a tag
      {"\xff\xc3", "\\xff\\xc3"},                             // no UTF-8, cut off
      {"\xc0\xaf\xed\xa0\x80", "\\xc0\\xaf\\xed\\xa0\\x80"},  // too long, half of a pair
      {"\xf5\x80\x80\x80", "\\xf5\\x80\\x80\\x80"},           // beyond the last letter
      {"", ""},
  };
  for (const auto& [text, escaped] : table) EXPECT_EQ(Escaped(text), escaped);
  EXPECT_EQ(Escaped("a\n\tb\r", "\n\t"), "a\n\tb\\x0d");
}

// Letter by letter, every byte once; and what comes out needs no escaping.
TEST(Escaped, RandomBytes_LoseNothing) {
  const auto seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (int i = 0; i < 20000; ++i) {
    std::string text(random() % 12, ' ');
    for (char& c : text) c = static_cast<char>(random() % (i % 2 == 0 ? 256 : 0xf5));
    std::string_view rest = text;
    std::string all;
    while (!rest.empty()) {
      const std::string_view letter = FirstLetter(rest);
      ASSERT_FALSE(letter.empty());
      all += letter;
      rest.remove_prefix(letter.size());
    }
    ASSERT_EQ(all, text);
    ASSERT_EQ(Escaped(Escaped(text)), Escaped(text));
  }
}

}  // namespace
}  // namespace dsrun
