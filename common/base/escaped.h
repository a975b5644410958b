// Text that others wrote, made fit to be read: in a message, what cannot be seen is spelt out, and
// nothing can move a terminal's cursor or turn the reading direction around.
//
//   Escaped("w1\u00a0slots=2\x1b[2J")  ->  w1\u00a0slots=2\x1b[2J
//
// Letters of UTF-8 stay, except those that show nothing or look like a blank: controls, the
// no-break space, zero-width and direction marks, the byte order mark. Bytes that are no UTF-8
// become \xNN. Pure.

#ifndef DSRUN_COMMON_BASE_ESCAPED_H_
#define DSRUN_COMMON_BASE_ESCAPED_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace dsrun {

// `kept`: bytes below 0x80 that stay as they are, such as "\n\t".
std::string Escaped(std::string_view text, std::string_view kept = "");

// The first letter of `text`: the bytes of one UTF-8 code point, or the one byte that begins none.
// Empty: the text is.
std::string_view FirstLetter(std::string_view text);
// One letter, as FirstLetter gives it.
std::string EscapedLetter(std::string_view letter);
// Nothing: its bytes are no UTF-8.
std::optional<uint32_t> CodePoint(std::string_view letter);

}  // namespace dsrun

#endif  // DSRUN_COMMON_BASE_ESCAPED_H_
